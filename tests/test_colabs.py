"""The notebook runs from its first cell to its last, on the smoke experiment."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests import emitters

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "colabs" / "quantize_your_vit.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def _outputs(notebook, kind):
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def test_the_notebook_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's event loop
def test_the_notebook_runs_to_its_end(notebook, tmp_path, monkeypatch):
    (settings,) = (cell for cell in notebook.cells if cell.source.startswith("MODEL = "))
    settings.source = settings.source.replace("configs/vit_fashion.py", "configs/smoke.py")
    settings.source = settings.source.replace(
        "FIELDS = {}", 'FIELDS = {"evaluation.split": "validation"}'
    )
    assert "smoke" in settings.source
    assert "validation" in settings.source
    # The devices there are; compilation takes most of the time.
    monkeypatch.setenv("XLA_FLAGS", emitters.FLAG)
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = NotebookClient(notebook, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    # samples.png, the regions, the bars and the picture.
    assert len(_outputs(notebook, "image/png")) == 4
    assert any("W3A3" in output["data"]["text/html"] for output in _outputs(notebook, "text/html"))
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    # Jupyter may cut what is printed into several outputs.
    told = "".join(output["text"] for output in last.outputs)
    assert "the low-bit ONNX file says class" in told


def test_the_notebook_opens_in_colab(notebook):
    first, install = notebook.cells[0], notebook.cells[2]
    assert "colab-badge.svg" in first.source
    assert 'REPOSITORY = ""  # @param' in install.source
    assert "pip install" in install.source
