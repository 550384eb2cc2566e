"""Every notebook runs from top to bottom, as it would for a reader."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

# What each says where it has done what it set out to do.
TEXTS = {
  "quickstart": ["first loss 0.6931"],
  "03_on_policy": ["ratio 1.0  squared 1.0  clipped 0.0"],
  "bradley_terry": ["CLE never won", "home advantage", "converged in", "largest gradient there"],
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_shows_no_error(path):
  notebook = nbformat.read(path, as_version=4)
  done = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
  outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
  assert not [o for o in outputs if o.output_type == "error"]
  shown = {kind for o in outputs for kind in o.get("data", {})}
  assert "image/png" in shown, "nothing is plotted"
  text = "".join(o.get("text", "") for o in outputs)
  for wanted in TEXTS[path.stem]:
    assert wanted in text, wanted
  if path.stem == "quickstart":
    assert "text/html" in shown, "the packed row is not shown"
