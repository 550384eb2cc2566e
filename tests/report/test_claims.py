"""What a sound frontier shows, against points laid by hand above and below a straight oracle."""

import json

import pytest
from made_stages import make_comparison, make_experiment

from dpojax.report.claims import above_oracle, claims, falls_strictly, kl_by_beta
from dpojax.report.comparison_records import comparison_of
from dpojax.report.stages import read_stage

BETA = "\N{GREEK SMALL LETTER BETA}"


def compared(folder, of_policies, oracle=None, best_of_n=()):
  """A comparison of policies name -> (kl, reward) trained with DPO at beta 0.1, 0.5 and 2, the reference beside them."""
  made = make_experiment(folder)
  policies = {"sft": (made["sft"], "SFT", 0.0, 0.6)}
  policies |= {name: (made[name], "DPO", kl, reward) for name, (kl, reward) in of_policies.items()}
  stage = make_comparison(folder / "compared", policies) or folder / "compared"
  path = folder / "compared" / "comparison.json"
  content = json.loads(path.read_text())
  content |= {"oracle": oracle and {"points": oracle}, "best_of_n": list(best_of_n)}
  path.write_text(json.dumps(content))
  return comparison_of(read_stage(stage))


def line(*kls, slope=1.0, start=0.6, half=0.0):
  """An oracle curve through these KLs, with bands of that half width."""
  rewards = [start + slope * kl for kl in kls]
  return [
    {"kl": kl, "reward": r, "reward_low": r - half, "reward_high": r + half} for kl, r in zip(kls, rewards, strict=True)
  ]


def test_a_point_is_as_far_above_as_its_errors_say(tmp_path):
  # made comparisons have errors of 0.05 in reward and 0.02 in KL; a band of 1.96 x 0.1 is an error of 0.1
  policies = {"dpo_0.1": (2.0, 3.0), "dpo_0.5": (1.0, 1.5), "dpo_2": (9.0, 20.0)}
  found = compared(tmp_path, policies, line(0.0, 1.5, 4.0, half=1.959964 * 0.1))
  error = (0.05**2 + 0.1**2 + 0.02**2) ** 0.5
  excess = {e.name: e.errors for e in above_oracle(found)}
  assert set(excess) == {"dpo_0.1", "dpo_0.5"}  # the third lies beyond the curve, where nothing is said
  assert excess["dpo_0.1"] == pytest.approx((3.0 - 2.6) / error, rel=1e-5)
  assert excess["dpo_0.5"] == pytest.approx((1.5 - 1.6) / error, rel=1e-5)
  assert claims([found])[1] == (
    "1 of 2 points at the oracle's KLs lies above it by more than 3 standard errors (dpo_0.1); the highest, dpo_0.1, by 3.5."
  )


def test_best_of_n_is_judged_too_but_for_the_reference_itself(tmp_path):
  row = {"kl": 0.5, "kl_error": 0.0, "reward/true": 1.0, "reward/true_error": 0.1}
  found = compared(tmp_path, {"dpo_2": (1.0, 1.0)}, line(0.0, 4.0), [{"n": 1, **row, "kl": 0.1}, {"n": 4, **row}])
  assert {e.name: round(e.errors, 6) for e in above_oracle(found) if e.name != "dpo_2"} == {"best of 4": -1.0}
  assert claims([found])[-1].startswith("None of 2 points")


@pytest.mark.parametrize("kls, falls", [((6.0, 2.0, 0.5), True), ((6.0, 0.5, 0.5), False), ((2.0, 6.0, 0.5), False)])
def test_kl_by_beta(tmp_path, kls, falls):
  names = ("dpo_0.1", "dpo_0.5", "dpo_2")
  found = compared(tmp_path, {name: (kl, 1.0) for name, kl in zip(names, kls, strict=True)})
  assert kl_by_beta(found) == list(zip((0.1, 0.5, 2.0), kls, strict=True))
  assert falls_strictly(kl_by_beta(found)) == falls
  assert claims([found]) == [f"KL of DPO {'falls' if falls else 'does not fall'} strictly as {BETA} rises."]
  assert claims([found, found]) == [f"KL of DPO falls strictly as {BETA} rises in {2 * falls} of 2 comparisons."]


def test_nothing_is_said_of_what_was_not_measured(tmp_path):
  assert claims([]) == [] and claims([compared(tmp_path, {"dpo_2": (1.0, 1.0)})]) == []
