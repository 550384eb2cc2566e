"""Every notebook runs from top to bottom, as it would for a reader."""

import pathlib

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What each says where it has done what it set out to do.
TEXTS = {
  "quickstart": ["first loss 0.6931"],
  "03_on_policy": ["ratio 1.0  squared 1.0  clipped 0.0"],
  "01_losses": ["at the reference    0.6931", "total variation to that of the strengths"],
  "02_data": ["dropped: ", "fewer\n", "True False"],
  "04_beta_sweep": ["KL falls as β rises: True", "share of"],
  "05_own_loss": ["at the reference: 1.0", "of the oracle's gain"],
  "bradley_terry": ["CLE never won", "home advantage", "converged in", "largest gradient there"],
}

LONG = {"quickstart", "03_on_policy", "04_beta_sweep", "05_own_loss"}  # a minute and more; `make test-long` runs them

# Fewer steps where no claim hangs on their number; 04 claims an order of KLs and runs as it stands.
SHORTER = {
  "quickstart": {'"sft.train.steps": 60': '"sft.train.steps": 20'},
  "03_on_policy": {
    '"sft.train.steps": 150': '"sft.train.steps": 30',
    '"sft.data.texts": 5000': '"sft.data.texts": 1000',
    "until=10 * rollouts.updates": "until=3 * rollouts.updates",
    '"policy_gradient.epochs": 12': '"policy_gradient.epochs": 4',
  },
  "05_own_loss": {
    '"sft.train.steps": 120': '"sft.train.steps": 30',
    '"sft.data.texts": 5000': '"sft.data.texts": 1000',
    '"pairs.pairs.prompts": 100': '"pairs.pairs.prompts": 40',
    '"train.steps": 40': '"train.steps": 24',
  },
}


def shorten(notebook, changes):
  for old, new in changes.items():
    (cell,) = [cell for cell in notebook.cells if old in cell.source]
    cell.source = cell.source.replace(old, new)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_pair_says_the_same(path):
  """`jupytext --sync notebooks/*.ipynb` after a change of either."""
  paired = jupytext.read(path.with_suffix(".py"))
  cells = [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]
  assert [(cell.cell_type, cell.source) for cell in paired.cells] == cells


def test_no_pair_is_left_over():
  assert {path.stem for path in (ROOT / "notebooks").glob("*.py")} == {path.stem for path in NOTEBOOKS} == set(TEXTS)


def _alone(path):
  marks = [pytest.mark.xdist_group(path.stem), *[pytest.mark.long] * (path.stem in LONG)]
  return pytest.param(path, marks=marks, id=path.stem)


@pytest.mark.parametrize("path", [_alone(path) for path in NOTEBOOKS])
def test_runs_and_shows_no_error(path):
  notebook = nbformat.read(path, as_version=4)
  shorten(notebook, SHORTER.get(path.stem, {}))
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
