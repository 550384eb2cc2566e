"""Scores that the PyPI package `rewardbench` gives to made-up rewards: section scores, best-of-4, Ties.

    python -m venv bench && bench/bin/pip install --no-deps rewardbench==0.1.4
    bench/bin/pip install numpy pandas datasets
    bench/bin/python tests/oracles/make_rewardbench_golden.py

The package imports torch, transformers and fastchat, which its scoring does not use: empty modules stand in.
"""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import math
import random
import sys
import types
from pathlib import Path
from unittest import mock

import datasets  # before the empty modules, whose versions it would ask for

OUT = Path(__file__).parent / "goldens" / "rewardbench.json"
ABSENT = ("torch", "transformers", "fastchat", "fastchat.conversation", "rewardbench", "rewardbench.models")
V2 = ("Factuality", "Precise IF", "Math", "Safety", "Focus")


def load(name: str):
  """A module of the package by its file, without the package's own __init__."""
  path = importlib.metadata.distribution("rewardbench").locate_file(f"rewardbench/{name}.py")
  loader = importlib.machinery.SourceFileLoader(f"rewardbench_{name}", str(path))
  module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(loader.name, loader))
  loader.exec_module(module)
  return module


class Stub(types.ModuleType):
  """Has every attribute."""

  __path__: tuple[str, ...] = ()

  def __getattr__(self, name: str):
    if name.startswith("__"):
      raise AttributeError(name)
    return mock.MagicMock()


def version_1(utils, constants, draw: random.Random) -> list[dict]:
  """Win rates are the strict wins that the package's script counts; sections come from its function."""
  cases = []
  for share in (1.0, 0.4):
    subsets = [name for name in constants.EXAMPLE_COUNTS if draw.random() < share]
    rows = []
    for subset in subsets:
      for _ in range(draw.randint(2, 7)):
        chosen, rejected = (round(draw.gauss(0, 2), 1) for _ in range(2))  # rounded: some are equal
        rows.append({"subset": subset, "scores": [chosen, rejected]})
    rates = {}
    for subset in subsets:
      pairs = [row["scores"] for row in rows if row["subset"] == subset]
      rates[subset] = sum(chosen > rejected for chosen, rejected in pairs) / len(pairs)
    sections = utils.calculate_scores_per_section(constants.EXAMPLE_COUNTS, constants.SUBSET_MAPPING, rates)
    cases.append({"rows": rows, "subsets": rates, "sections": sections})
  return cases


def best_of(utils, draw: random.Random) -> dict:
  """One right answer and three wrong ones; scores on a coarse grid, so that the highest is often shared."""
  rows = [
    {"subset": subset, "id": str(i), "scores": [float(draw.randint(-2, 2)) for _ in range(4)]}
    for subset in V2
    for i in range(12)
  ]
  flat = [dict(subset=row["subset"], id=row["id"], text="", scores=score) for row in rows for score in row["scores"]]
  scored = utils.reroll_and_score_dataset(datasets.Dataset.from_list(flat), [4] * len(rows))
  results = [float(value) for value in scored["results"]]
  by_subset = {name: [r for row, r in zip(rows, results, strict=True) if row["subset"] == name] for name in V2}
  return {
    "rows": rows,
    "results": results,
    "subsets": {name: sum(values) / len(values) for name, values in by_subset.items()},
  }


def ties(utils, draw: random.Random) -> list[dict]:
  """Prompts with and without a partner, with one or several right answers, with equal scores among them."""
  cases = []
  for number in range(12):
    rows = []
    for prompt in range(draw.randint(1, 12)):
      kinds = ["ref", "tied"] if draw.random() < 0.8 else [draw.choice(["ref", "tied"])]
      for kind in kinds:
        right = 1 if kind == "ref" else draw.randint(1, 6)
        wrong = draw.randint(1, 5)
        lift = draw.choice([0.0, 2.0, 6.0])
        digits = draw.choice([0, 3])
        scores = [draw.gauss(lift, 1) for _ in range(right)] + [draw.gauss(0, 1) for _ in range(wrong)]
        rows.append(
          {"id": f"{kind}:{prompt}", "num_correct": right, "scores": [round(score, digits) for score in scores]}
        )
    if number == 10:
      rows = [row for row in rows if row["id"].startswith("ref")] or [
        {"id": "ref:0", "num_correct": 1, "scores": [1.0, 0.0]}
      ]
    if number == 11:
      rows.append({"id": "tied:99", "num_correct": 2, "scores": [1.0, 2.0]})  # no wrong answer
      rows.append({"id": "ref:99", "num_correct": 1, "scores": [1.0, 0.0]})
    _, score = utils.process_single_model(rows)
    cases.append({"rows": rows, "score": None if math.isnan(score) else float(score)})
  return cases


def main() -> None:
  with mock.patch.dict(sys.modules, {name: Stub(name) for name in ABSENT}):
    utils, constants = load("utils"), load("constants")
  draw = random.Random(0)
  golden = {
    "made_by": "tests/oracles/make_rewardbench_golden.py",
    "versions": {name: importlib.metadata.version(name) for name in ("rewardbench", "datasets", "pandas", "numpy")},
    "counts": constants.EXAMPLE_COUNTS,
    "mapping": constants.SUBSET_MAPPING,
    "version_1": version_1(utils, constants, draw),
    "best_of_4": best_of(utils, draw),
    "ties": ties(utils, draw),
  }
  OUT.write_text(json.dumps(golden) + "\n", encoding="utf-8")
  print(f"{OUT}: Ties {[case['score'] for case in golden['ties']]}")


if __name__ == "__main__":
  main()
