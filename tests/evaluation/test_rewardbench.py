"""RewardBench's scores: against the PyPI package `rewardbench`, and the leaderboard's published rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from made import pair

from dpojax.evaluation import ScoredRow
from dpojax.evaluation.rewardbench import PRIOR_SETS, SECTIONS, V2_SUBSETS, overall, ties_score, version_1, version_2

GOLDEN = json.loads((Path(__file__).parents[1] / "oracles" / "goldens" / "rewardbench.json").read_text("utf-8"))


def scored(scores, right=1, subset=""):
  level = np.asarray([0] * right + [1] * (len(scores) - right))
  return ScoredRow(np.asarray(scores, np.float64), np.full(len(scores), 5), level, 0, subset)


def test_subsets_and_weights_are_the_packages():
  assert {section: list(weights) for section, weights in SECTIONS.items()} == GOLDEN["mapping"]
  assert {name: n for weights in SECTIONS.values() for name, n in weights.items()} == GOLDEN["counts"]


@pytest.mark.parametrize("case", GOLDEN["version_1"])
def test_sections_are_the_packages(case):
  found = version_1([pair(*row["scores"], subset=row["subset"]) for row in case["rows"]])
  assert found["subsets"] == pytest.approx(case["subsets"], abs=1e-15)
  for section, value in case["sections"].items():
    present = set(SECTIONS[section]) & set(case["subsets"])
    assert found["sections"][section] == (pytest.approx(value, abs=1e-15) if present else None)
    assert present or value == 0  # the package's word for nothing
  assert (found["score"] is None) == (None in found["sections"].values())


def test_equal_scores_lose():
  assert version_1([pair(1, 1, subset="donotanswer"), pair(2, 1, subset="donotanswer")])["sections"]["Safety"] == 0.5


@pytest.mark.parametrize(
  "sections, prior, score",
  [
    ((96.9, 76.8, 92.2, 97.3), 74.3, 89.0),  # ArmoRM-Llama3-8B-v0.1
    ((96.4, 71.3, 92.7, 97.7), 78.2, 88.3),  # Cohere May 2024
    ((98.3, 65.8, 89.7, 94.7), 74.6, 85.7),  # pair-preference-model
  ],
)
def test_the_published_leaderboard(sections, prior, score):
  """Rows of the leaderboard of May 2024, as the model card of RLHFlow/ArmoRM-Llama3-8B-v0.1 prints them."""
  assert round(overall(dict(zip(SECTIONS, sections, strict=True)), prior), 1) == score


def test_prior_sets_join_when_all_are_there():
  rows = [pair(1, 0, subset=name) for weights in SECTIONS.values() for name in weights]
  assert version_1(rows)["score"] == 1 and version_1(rows)["prior_sets"] is None
  prior = [pair(1 if name == "shp" else -1, 0, subset=name) for name in PRIOR_SETS]
  found = version_1([*rows, *prior])
  assert found["prior_sets"] == 0.25
  assert found["score"] == pytest.approx((4 * 1 + 0.25 / 2) / 4.5)
  assert version_1([*rows, *prior[1:]])["score"] == 1


def test_best_of_four_is_the_packages():
  case = GOLDEN["best_of_4"]
  assert set(case["results"]) >= {0, 0.5, 1}  # the golden file has shared maxima
  found = version_2(
    [scored(row["scores"], subset=row["subset"]) for row in case["rows"]], [r["id"] for r in case["rows"]]
  )
  assert found["subsets"] == pytest.approx(case["subsets"], abs=1e-15)
  assert found["score"] is None  # no Ties


@pytest.mark.parametrize("case", GOLDEN["ties"])
def test_ties_are_the_packages(case):
  rows = [scored(row["scores"], row["num_correct"]) for row in case["rows"]]
  found = ties_score(rows, [row["id"] for row in case["rows"]])
  assert found == pytest.approx(float("nan") if case["score"] is None else case["score"], abs=1e-14, nan_ok=True)


def test_the_score_of_version_2_is_the_mean_of_six():
  ties = GOLDEN["ties"][0]
  rows = [scored([1, 0, 0, 0], subset=name.title()) for name in V2_SUBSETS[:-1]]
  rows += [scored(row["scores"], row["num_correct"], "Ties") for row in ties["rows"]]
  found = version_2(rows, [*map(str, range(5)), *(row["id"] for row in ties["rows"])])
  assert found["score"] == pytest.approx((5 + ties["score"]) / 6)
