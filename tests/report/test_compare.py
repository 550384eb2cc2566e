"""Two policies side by side: pairing, intervals against theory, and what cannot be compared."""

import json
import math

import numpy as np
import pytest
from made_stages import PROMPTS, look, make_comparison, make_experiment, make_stage, sample_rows

from dpojax.cli.main import main
from dpojax.errors import InputError
from dpojax.report import compare
from dpojax.report.paired import sign_flip

MANY = [f"p{i}" for i in range(400)]


def make_run(folder, rewards, *, seed=0, prompts=MANY, values=None):
  settings = {"seed": seed, "monitor.every": 5, **(values or {})}
  samples = {5: sample_rows("a", rewards, prompts=prompts)}
  return make_stage(folder, "preference", settings, metrics=[look(5, 1.0, 1.0)], samples=samples)


def test_pairs_cancel_what_prompts_have_in_common(tmp_path):
  random = np.random.default_rng(0)
  hard, noise = random.normal(0, 5, 400), random.normal(0.3, 1, 400)
  make_run(tmp_path / "a", hard)
  make_run(tmp_path / "b", (hard + noise)[::-1], prompts=MANY[::-1], values={"loss.beta": 0.5})  # in another order
  found = compare(str(tmp_path / "a"), str(tmp_path / "b"))
  (reward,) = [d for d in found.differences if d.metric == "reward/true"]
  assert found.paired_by_prompt and found.same_keys and found.prompts == (400, 400)
  assert reward.value == pytest.approx(noise.mean())
  half = 1.96 * noise.std() / math.sqrt(400)  # not that of the rewards, which is five times as wide
  assert reward.high - reward.low == pytest.approx(2 * half, rel=0.06)
  value, low, high = found.win_rate["reward/true"]
  assert value == pytest.approx(np.mean(noise > 0))
  assert high - low == pytest.approx(2 * 1.96 * math.sqrt(value * (1 - value) / 400), rel=0.06)
  assert found.settings["loss.beta"] == ("-", "0.5") and "seed" not in found.settings


def test_equal_answers_win_a_half(tmp_path):
  for name in "ab":
    make_run(tmp_path / name, np.arange(400.0))
  found = compare(str(tmp_path / "a"), str(tmp_path / "b"))
  assert found.win_rate["reward/true"] == pytest.approx((0.5, 0.5, 0.5)) and found.settings == {}
  assert all((d.value, d.low, d.high) == (0, 0, 0) for d in found.differences)


def test_without_common_prompts_nothing_is_paired(tmp_path):
  random = np.random.default_rng(1)
  x, y = random.normal(0, 1, 400), random.normal(1, 2, 400)
  make_run(tmp_path / "a", x)
  make_run(tmp_path / "b", y, prompts=[f"q{i}" for i in range(400)])
  found = compare(str(tmp_path / "a"), str(tmp_path / "b"))
  (reward,) = [d for d in found.differences if d.metric == "reward/true"]
  assert not found.paired_by_prompt and found.win_rate == {}
  half = 1.96 * math.sqrt((x.var() + y.var()) / 400)
  assert reward.high - reward.low == pytest.approx(2 * half, rel=0.06)


def test_seeds_are_drawn_as_well_as_prompts(tmp_path):
  random = np.random.default_rng(2)
  of_seed, of_prompt = random.normal(0, 1, 10), random.normal(0, 1, 400)
  for seed in range(10):
    make_run(tmp_path / f"s{seed}" / "one", np.zeros(400), seed=seed)
    make_run(tmp_path / f"s{seed}" / "two", of_seed[seed] + of_prompt, seed=seed)
  found = compare(f"{tmp_path}:one", f"{tmp_path}:two")
  (reward,) = [d for d in found.differences if d.metric == "reward/true"]
  assert found.paired_by_seed and len(found.a) == 10
  half = 1.96 * math.sqrt(of_seed.var() / 10 + of_prompt.var() / 400)  # prompts alone: a sixth of it
  assert reward.high - reward.low == pytest.approx(2 * half, rel=0.08)
  p, least = found.sign_flip["reward/true"]
  assert least == 2**-9 and p == sign_flip(of_seed + of_prompt.mean())[0]


@pytest.mark.parametrize(
  "differences, p",
  [([1.0, 2.0, 3.0], 0.25), ([1.0, 1.0, 1.0, 1.0, 1.0], 2**-4), ([1.0, -1.0], 1.0), ([3.0, 2.0, -1.0], 0.5)],
)
def test_the_sign_flip_test_is_exact(differences, p):
  assert sign_flip(np.asarray(differences)) == (p, 2.0 ** (1 - len(differences)))


def test_policies_of_a_comparison(tmp_path, capsys):
  made = make_experiment(tmp_path / "x")
  policies = {"sft": (made["sft"], "SFT", 0.0, 0.6), "dpo": (made["dpo_0.5"], "DPO, β 0.5", 2.0, 2.5)}
  make_comparison(tmp_path / "x" / "compared", policies)
  where = tmp_path / "x" / "compared"
  found = compare(f"{where}:sft", f"{where}:dpo")
  of = {d.metric: d for d in found.differences}
  scores = np.load(where / "scores.npz")
  by_hand = scores["dpo/held_out/reward/true"].mean() - scores["sft/held_out/reward/true"].mean()
  assert of["reward/true"].value == pytest.approx(by_hand) and of["kl"].value == 2.0 and of["length"].value == 0.0
  measured = dict(scores) | {f"{name}/held_out/reward/length": np.full(12, float(len(name))) for name in ("sft", "dpo")}
  np.savez(where / "scores.npz", **(measured | {"dpo/held_out/reward/length": np.full(12, 9.0)}))
  of = {d.metric: d for d in compare(f"{where}:sft", f"{where}:dpo").differences}
  assert of["length"].value == 6.0 and "reward/length" not in of  # means over all samples, where they were measured
  assert main(["compare", f"{where}:sft", f"{where}:dpo"]) == 0
  out = capsys.readouterr().out
  assert "12 prompts, that both answered, under the same random keys" in out and "KLs differ" in out
  first = [r["answers"] for r in rows_of(where / "answers.jsonl") if r["split"] == "held_out"]
  better = [a["dpo"]["rewards"]["true"] - a["sft"]["rewards"]["true"] for a in first]
  won = np.mean([(d > 0) + 0.5 * (d == 0) for d in better])
  assert f"B's answer has the higher true reward for {won:.1%} of prompts" in out
  assert str(compare(f"{where}:sft", f"{where}:dpo")) == out.rstrip("\n")


def rows_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_how_often_an_answer_is_better_is_no_question_of_means(tmp_path):
  made = make_experiment(tmp_path / "x")
  policies = {"sft": (made["sft"], "SFT", 0.0, 0.6), "dpo": (made["dpo_0.5"], "DPO", 2.0, 2.5)}
  make_comparison(tmp_path / "x" / "compared", policies)
  where = tmp_path / "x" / "compared"
  rows = rows_of(where / "answers.jsonl")
  for i, row in enumerate(
    rows
  ):  # means say that dpo is better everywhere; its first answers are so for one prompt of four
    row["answers"]["dpo"]["rewards"]["true"] = row["answers"]["sft"]["rewards"]["true"] + (1 if i % 4 == 0 else -1)
  (where / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  found = compare(f"{where}:sft", f"{where}:dpo")
  assert found.win_rate["reward/true"][0] == 0.25


@pytest.mark.slow
def test_seeds_with_prompts_of_their_own_are_paired_within_each(tmp_path, capsys):
  random = np.random.default_rng(3)
  of_seed = random.normal(0, 0.5, 12)
  for seed in range(12):
    prompts = [f"{seed} p{i}" for i in range(100)] + ["all seeds"]
    hard, noise = random.normal(0, 5, 101), random.normal(0, 1, 101)
    make_run(tmp_path / f"s{seed}" / "one", hard, seed=seed, prompts=prompts)
    make_run(tmp_path / f"s{seed}" / "two", hard + of_seed[seed] + noise, seed=seed, prompts=prompts)
  found = compare(f"{tmp_path}:one", f"{tmp_path}:two")
  (reward,) = [d for d in found.differences if d.metric == "reward/true"]
  assert found.paired_by_prompt and found.prompts == (101, 101) and not found.shared_prompts and found.same_keys
  half = 1.96 * math.sqrt(of_seed.var() / 12 + 1 / (12 * 101))  # were prompts shared, 1/101; unpaired, 2 x 25/1200
  assert reward.high - reward.low == pytest.approx(2 * half, rel=0.25)
  assert main(["compare", f"{tmp_path}:one", f"{tmp_path}:two"]) == 0
  assert "paired by prompt: 101 prompts of each seed, its own, that both answered" in capsys.readouterr().out


def test_answers_to_other_prompts_are_counted(tmp_path, capsys):
  make_run(tmp_path / "a", np.arange(400.0))
  make_run(tmp_path / "b", np.arange(400.0), prompts=[*MANY[:300], *(f"q{i}" for i in range(100))], seed=1)
  found = compare(str(tmp_path / "a"), str(tmp_path / "b"))
  assert found.paired_by_prompt and found.prompts == (300, 300) and found.unused == 200
  assert not found.same_keys  # looks add the run's seed to monitor.seed
  assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
  assert "200 answers to other prompts are not used" in capsys.readouterr().out


def test_a_damaged_seed_is_named(tmp_path, capsys):
  for seed in range(3):
    for name in ("one", "two"):
      make_run(tmp_path / f"s{seed}" / name, np.arange(400.0), seed=seed)
  (tmp_path / "s1" / "two" / "stage.json").write_text("{")
  assert main(["compare", f"{tmp_path}:one", f"{tmp_path}:two"]) == 0
  out = capsys.readouterr().out
  assert "left out: " in out and "s1/two/stage.json" in out and "seeds not paired (3 and 2)" in out


def test_what_is_printed_says_how_few_seeds_there_are(tmp_path, capsys):
  for seed in range(3):
    for name, start in (("one", 0.0), ("two", 1.0)):
      make_run(tmp_path / f"s{seed}" / name, start + np.arange(12.0), seed=seed, prompts=PROMPTS)
  assert main(["compare", f"{tmp_path}:one", f"{tmp_path}:two"]) == 0
  out = capsys.readouterr().out
  assert "hierarchical bootstrap over seeds and prompts, paired by seed" in out and "exploratory" in out
  assert "cannot go below 2^(1-3) = 0.25" in out


def test_other_keys_are_said(tmp_path, capsys):
  make_run(tmp_path / "a", np.zeros(400))
  make_run(tmp_path / "b", np.ones(400), values={"monitor.temperature": 0.5})
  main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
  assert "under different random keys or sampling settings" in capsys.readouterr().out


def test_what_leads_to_no_policy_or_to_several_is_an_error(tmp_path, capsys):
  make_experiment(tmp_path / "x")
  for where, said in (
    (tmp_path / "x", "leads to several policies of one seed"),
    (f"{tmp_path}/x:dpo", "give FOLDER:NAME"),
  ):
    with pytest.raises(InputError, match=said) as error:
      compare(str(where), str(tmp_path / "x" / "dpo_0.1"))
    assert "dpo_0.1" in str(error.value)
  with pytest.raises(InputError, match="no policy"):
    compare(str(tmp_path / "x" / "sft"), str(tmp_path / "x" / "dpo_0.1"))
  assert main(["compare", str(tmp_path / "nowhere"), str(tmp_path / "x")]) == 2
  assert "no such folder" in capsys.readouterr().err
