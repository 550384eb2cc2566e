"""The frontier's points, lines and rewards at equal KL, against numbers by hand."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_stages import look, make_comparison, make_experiment, make_ppo, make_stage, train_rows
from scipy import stats

from dpojax.report.comparison_records import comparison_of
from dpojax.report.frontier import (
  BEST_OF_N,
  REFERENCE,
  Point,
  curve_of_series,
  difference_at,
  equal_kls,
  frontier_points,
  interpolate,
  lines,
  of_split,
  reward_at,
  reward_names,
)
from dpojax.report.methods import method_of, methods_of
from dpojax.report.stages import find_stages, read_stage


def point(kl, reward, *, seed=0, knob="a", error=0.0, kl_error=0.0, series="DPO", final=True):
  return Point(series, knob, f"run {knob} {seed}", seed, round(100 * kl), kl, kl_error, reward, error, final=final)


numbers = st.floats(-50, 50).map(lambda x: round(x, 3))


@given(
  slope=numbers,
  start=numbers,
  kls=st.lists(st.floats(0, 40), min_size=2, max_size=6, unique=True),
  share=st.floats(0, 1),
)
def test_between_points_of_a_line_lies_the_line(slope, start, kls, share):
  kl = min(kls) + share * (max(kls) - min(kls))
  found = interpolate([point(k, start + slope * k) for k in kls], kl)
  assert found is not None
  assert found[0] == pytest.approx(start + slope * kl, abs=1e-6)


def test_out_of_range_there_is_no_reward():
  points = [point(1.0, 2.0), point(3.0, 4.0)]
  assert (
    interpolate(points, 0.99) is None and interpolate(points, 3.01) is None and interpolate(points[:1], 1.1) is None
  )
  assert interpolate(points[:1], 1.0) == (2.0, 0.0)  # nothing has to be drawn through it
  assert reward_at(points, 1.0).value == 2.0 and reward_at(points, 3.0).value == 4.0


def test_the_interval_of_one_seed_is_that_of_the_two_points_beside():
  points = [
    point(1.0, 2.0, error=0.3, kl_error=0.1),
    point(3.0, 4.0, error=0.4, kl_error=0.2),
    point(9.0, 0.0, error=9.0),
  ]
  found = reward_at(points, 1.5)  # weights 3/4 and 1/4, slope 1
  error = math.sqrt((0.75 * 0.3) ** 2 + (0.75 * 0.1) ** 2 + (0.25 * 0.4) ** 2 + (0.25 * 0.2) ** 2)
  assert found.value == pytest.approx(2.5)
  assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-5)
  assert found.value - found.low == pytest.approx(found.high - found.value)


def test_the_interval_covers_the_truth_in_19_of_20_cases():
  random = np.random.default_rng(0)
  hits = 0
  for _ in range(2000):
    ends = [point(k, 1 + 0.5 * k + e * random.normal(), error=e) for k, e in ((1.0, 0.1), (2.0, 0.3))]
    found = reward_at(ends, 1.3)
    hits += found.low <= 1 + 0.5 * 1.3 <= found.high
  assert abs(hits / 2000 - 0.95) < 0.02


def test_several_seeds_have_a_line_each():
  rewards = (1.0, 1.4, 1.9)
  points = [point(k, r + k, seed=s, knob=str(k), error=0.1) for s, r in enumerate(rewards) for k in (1.0, 2.0)]
  found = reward_at(points, 1.5)
  spread = stats.sem([r + 1.5 for r in rewards]) * stats.t.ppf(0.975, 2)
  over_prompts = stats.norm.ppf(0.975) * math.sqrt(0.5) * 0.1
  assert found.seeds == 3 and found.value == pytest.approx(np.mean(rewards) + 1.5)
  assert found.high - found.value == pytest.approx(math.hypot(spread, over_prompts))


@pytest.mark.slow
def test_seeds_with_prompts_of_their_own_have_one_spread(tmp_path):
  """Its interval covers the truth in 19 of 20 cases: each seed's prompts are part of the spread over seeds."""
  random = np.random.default_rng(4)
  hits, wide = 0, 0
  for _ in range(1000):
    of_seed = random.normal(0, 0.2, 8)
    points = [
      Point("DPO", str(k), f"r {k} {s}", s, 10, k, 0.0, k + of_seed[s] + random.normal(0, 0.3), 0.3, prompts=f"of {s}")
      for s in range(8)
      for k in (1.0, 2.0)
    ]
    found = reward_at(points, 1.0)
    shared = reward_at([dataclasses.replace(p, prompts="same") for p in points], 1.0)
    hits += found.low <= 1.0 <= found.high
    wide += shared.high - shared.low > found.high - found.low
  assert abs(hits / 1000 - 0.95) < 0.025 and wide == 1000


def test_differences_are_paired_by_seed():
  of_seed = (0.0, 1.0, 5.0)
  one = [point(k, r + k, seed=s, knob=str(k)) for s, r in enumerate(of_seed) for k in (1.0, 3.0)]
  gains = (0.5, 0.7, 0.6)
  other = [
    point(k, r + k + g, seed=s, knob=str(k), series="PPO")
    for s, (r, g) in enumerate(zip(of_seed, gains, strict=True))
    for k in (1.0, 2.0)
  ]
  found, above = difference_at(other, one, 2.0)
  half = stats.sem(gains) * stats.t.ppf(0.975, 2)
  assert found.value == pytest.approx(0.6) and found.high - found.value == pytest.approx(half)
  assert above == 3 and found.seeds == 3
  assert difference_at(other, one, 2.5) is None and difference_at(other, [p for p in one if p.seed > 2], 2.0) is None


def test_lines_join_means_over_seeds_in_order_of_kl():
  points = [point(k, 10 * k + s, seed=s, knob=str(k)) for k in (3.0, 1.0, 2.0) for s in (0, 1)]
  points += [point(0.5, 0.0, final=False), point(0.0, 0.0, series=REFERENCE, knob="")]
  found = lines(points)
  assert [(row["kl"], row["reward"]) for row in found] == [(1.0, 10.5), (2.0, 20.5), (3.0, 30.5)]


def test_a_method_of_one_setting_is_joined_along_the_steps_of_each_run():
  points = [
    Point("RLOO", "a", f"run {s}", s, step, kl, 0.0, kl, 0.0, final=step == 30)
    for s in (0, 1)
    for step, kl in ((30, 2.0), (10, 3.0), (20, 1.0))
  ]
  found = [(row["line"], row["kl"], row["order"]) for row in lines(points)]
  assert found == [(f"RLOO, {s + 1}", kl, order) for s in (0, 1) for order, kl in enumerate((3.0, 1.0, 2.0))]
  assert len(curve_of_series(points)) == 6


def test_a_run_that_a_comparison_measured_ends_where_that_did():
  looks = [
    Point("RLOO", "a", "run", 0, step, step / 10, 0.0, 1.0, 0.0, final=False, path="/r") for step in (10, 20, 30)
  ]
  end = Point("RLOO", "a", "compared:run", 0, 30, 2.2, 0.0, 1.5, 0.0, source="comparison", path="/r")
  assert [(row["line"], row["kl"]) for row in lines([end, *looks])] == [("RLOO, 1", kl) for kl in (1.0, 2.0, 2.2)]
  assert reward_at(curve_of_series([end, *looks]), 2.6) is None  # the look at the end is the same policy


def test_methods_are_compared_where_most_of_them_are():
  points = [point(k, 0.0, knob=str(k)) for k in (0.4, 9.0)] + [
    point(k, 0.0, knob=str(k), series="PPO") for k in (1.9, 4.1)
  ]
  assert equal_kls(points) == [0.5, 1.0, 2.0, 4.0, 6.0, 8.0]
  assert equal_kls([point(3.0, 0.0)]) == []


def test_looks_make_points(tmp_path):
  make_experiment(tmp_path / "x", dots=4)
  stages, _ = find_stages([tmp_path / "x"])
  points = frontier_points(stages, [], "true")
  dpo = [p for p in points if p.series == "DPO"]
  assert len(dpo) == 3 * 4 and sum(p.final for p in dpo) == 3
  assert {p.knob for p in dpo} == {"β 0.1", "β 0.5", "β 2"}
  assert {p.knob for p in points if p.series == "PPO, learned reward"} == {"target 2", "target 4"}
  (reference,) = [p for p in points if p.series == REFERENCE]
  assert (reference.kl, reference.reward) == (0.0, 0.6)
  assert reward_names(stages, []) == ["true", "learned"]
  assert len(frontier_points(stages, [], "learned")) == 2 * 3 + 1


def test_a_run_that_goes_on_has_no_end_yet(tmp_path):
  make_stage(tmp_path / "d", "preference", metrics=[look(0, 0, 0.5), *train_rows(5), look(5, 1.0, 1.0)], ended=False)
  stages, _ = find_stages([tmp_path])
  assert [p.final for p in frontier_points(stages, [], "true") if p.series == "DPO"] == [False]


def test_what_was_not_finite_is_no_point(tmp_path):
  metrics = [look(0, 0, 0.5), *train_rows(5), look(3, 1.0, 1.0), look(5, "nan", 2.0), look(6, 2.0, "inf")]
  make_stage(tmp_path / "d", "preference", metrics=metrics)
  stages, _ = find_stages([tmp_path])
  assert [(p.step, p.final) for p in frontier_points(stages, [], "true") if p.series == "DPO"] == [(3, False)]


def test_a_comparison_takes_the_place_of_last_looks(tmp_path):
  made = make_experiment(tmp_path / "x")
  policies = {
    "sft": (made["sft"], "SFT", 0.0, 0.6),
    "dpo_0.5": (made["dpo_0.5"], "DPO, β 0.5", 2.0, 2.5),
    "gone": (tmp_path / "no", "PPO, learned reward, target 9", 7.0, 1.0),
  }
  make_comparison(tmp_path / "x" / "compared", policies)
  stages, _ = find_stages([tmp_path / "x"])
  comparison = comparison_of(next(stage for stage in stages if stage.recipe == "comparison"))
  points = frontier_points(stages, [comparison], "true")
  held_out = of_split(points, "held_out")
  of = {p.run: p for p in held_out if p.final}
  assert (of["compared:dpo_0.5"].series, of["compared:dpo_0.5"].knob, of["compared:dpo_0.5"].kl) == (
    "DPO",
    "β 0.5",
    2.0,
  )
  assert (of["compared:sft"].series, of["compared:gone"].series) == (REFERENCE, "PPO, learned reward")
  assert "dpo_0.5" not in of and "dpo_2" in of  # the looks of the first are on the way now
  assert [p.knob for p in held_out if p.series == BEST_OF_N] == ["N 2", "N 4", "N 8"]
  assert {p.kl for p in points if p.split == "unseen_pair" and p.series == "DPO"} == {2.1}


@pytest.mark.parametrize(
  "recipe, values, label",
  [
    ("preference", {"loss.name": "ipo", "loss.beta": 0.3}, "IPO, β 0.3"),
    ("preference", {"loss.name": "dpo + 0.2*sft"}, "DPO + 0.2 SFT, β 0.1"),
    ("preference", {"loss.name": "preferred_ft"}, "preferred-FT"),
    ("preference", {"loss.name": "unlikelihood", "loss.alpha": 0.5}, "unlikelihood, \N{GREEK SMALL LETTER ALPHA} 0.5"),
    ("online", {"online.refresh": 4, "train.steps": 100}, "online DPO, β 0.1"),
    ("online", {"online.refresh": 100, "train.steps": 100}, "offline DPO, β 0.1"),
    ("policy_gradient", {"policy_gradient.method": "rloo", "rollout.reward": "true"}, "RLOO, true reward, KL weight 0.05"),
    ("policy_gradient", {"rollout.reward": "good=model:runs/r?less=1", "policy_gradient.kl_controller": "adaptive"}, "PPO, learned reward, target 6"),
    ("policy_gradient", {"rollout.reward": "length"}, "PPO, length reward, KL weight 0.05"),
    ("sft", {}, "SFT"),
  ],
)  # fmt: skip
def test_methods_are_called_as_the_field_calls_them(tmp_path, recipe, values, label):
  assert method_of(read_stage(make_stage(tmp_path / "s", recipe, values))).label == label


def test_what_differs_beside_the_knob_tells_runs_apart(tmp_path):
  for name, values in {
    "a": {"loss.beta": 0.1, "optimizer.learning_rate": 1e-3},
    "b": {"loss.beta": 0.5, "optimizer.learning_rate": 1e-4},
    "c": {"loss.beta": 0.5, "optimizer.learning_rate": 1e-4, "seed": 1, "batch.seed": 7, "monitor.prompts": 3},
  }.items():
    make_stage(tmp_path / "rates" / name, "preference", values)
  make_ppo(
    tmp_path / "reuse" / "a",
    *(make_stage(tmp_path / n, r) for n, r in (("sft", "sft"), ("reward", "reward_model"))),
    2.0,
  )
  make_stage(tmp_path / "passes" / "a", "preference", {"train.epochs": 2.0})
  make_stage(tmp_path / "passes" / "b", "preference", {"train.epochs": 8.0})

  def labels(folder):
    stages, _ = find_stages([tmp_path / folder])
    return [(m.series, m.knob) for m in methods_of(stages).values()]

  assert labels("rates") == [
    ("DPO, learning_rate 0.001", "β 0.1"),
    ("DPO, learning_rate 0.0001", "β 0.5"),
    ("DPO, learning_rate 0.0001", "β 0.5"),
  ]
  assert labels("passes") == [("DPO", "β 0.1, epochs 2"), ("DPO", "β 0.1, epochs 8")]


def test_what_is_too_far_out_is_named_and_not_drawn():
  pytest.importorskip("altair", reason="the extra report is not installed")
  from dpojax.report.page.frontier_chart import drawable

  def at(series, kl, final=True):
    return Point(series, "", series, 0, 10, kl, 0.0, 1.0, 0.0, final=final)

  near = [at("DPO", kl) for kl in (0.0, 0.5, 1.0, 2.0)] + [at("DPO", 1.4, final=False)]
  assert drawable(near) == (near, "")
  far = [at("unlikelihood", 389.0), at("unlikelihood", 400.4, final=False)]
  kept, said = drawable([*near, *far])
  assert kept == near  # the median of 0.5, 1, 2 and 389 is 1.5
  assert said == " Not drawn, as they lie beyond 18 nats: unlikelihood (up to 400 nats); tables and CSV have them."
