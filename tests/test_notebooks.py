"""Every notebook runs from top to bottom, as it would for a reader."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_shows_no_error(path):
  notebook = nbformat.read(path, as_version=4)
  done = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
  outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
  assert not [o for o in outputs if o.output_type == "error"]
  assert any("text/html" in o.get("data", {}) for o in outputs), "the packed row is not shown"
  assert any("image/png" in o.get("data", {}) for o in outputs), "nothing is plotted"
  assert any("first loss 0.6931" in o.get("text", "") for o in outputs)
