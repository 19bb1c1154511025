"""Integer files of a low-bit model: codes, steps and zero points, by the rules of `quantizers`."""

from maskaq_jax.export.packed import load_packed, write_packed

__all__ = ["load_packed", "write_packed"]
