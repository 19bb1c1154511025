"""A page about a finished run: `report.html`, and `python -m maskaq_jax.report --workdir=RUN`."""

from maskaq_jax.report.writing import write, write_at_end

__all__ = ["write", "write_at_end"]
