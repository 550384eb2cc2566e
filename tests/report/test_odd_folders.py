"""Folders that no well-behaved run leaves: damaged, mixed, of several experiments, with odd names. What is drawn stays true."""

import json
import math
import os
import shutil

import pytest
from made_stages import look, make_comparison, make_experiment, make_ppo, make_stage, train_rows

from dpojax.errors import InputError
from dpojax.report.frontier import frontier_points, lines, reward_at
from dpojax.report.page.content import content_of
from dpojax.report.page.files import write_page
from dpojax.report.paired import compare
from dpojax.report.stages import find_stages


def content(folder, reward=""):
  return content_of(*find_stages([folder]), reward)


def table(found, key):
  one = next(t for s in found.sections for t in s.tables if t.key == key)
  return {row[0].text: dict(zip(one.header, (c.text for c in row), strict=True)) for row in one.rows}


def policies(made):
  return {
    "sft": (made["sft"], "SFT", 0.0, 0.6),
    "dpo_0.1": (made["dpo_0.1"], "DPO, β 0.1", 10.0, 2.9),
    "dpo_0.5": (made["dpo_0.5"], "DPO, β 0.5", 2.0, 2.5),
  }


def edit(path, change):
  found = json.loads(path.read_text())
  change(found)
  path.write_text(json.dumps(found))


def dpo(folder, beta, kl, reward, **values):
  metrics = [look(0, 0.0, 0.6), *train_rows(4), look(4, kl, reward)]
  return make_stage(folder, "preference", {"loss.beta": beta, "monitor.every": 5, **values}, metrics=metrics)


def test_the_oracle_of_one_reward_is_not_drawn_over_another(tmp_path):
  make_comparison(tmp_path / "c", policies(make_experiment(tmp_path)))
  chart = content(tmp_path, "learned").sections[0].charts[0]
  assert not [row for row in chart.rows if row["series"] == "oracle"]


def test_runs_of_two_base_models_are_two_series(tmp_path):
  for size, kl in (("small", 1.0), ("large", 3.0)):
    for beta in (0.1, 0.5):
      dpo(
        tmp_path / f"{size}_{beta}", beta, kl * (1 if beta == 0.5 else 2), kl + beta, **{"model.path": f"runs/{size}"}
      )
  rows = table(content(tmp_path), "methods")
  assert len(rows) == 2, rows.keys()


def test_ppo_on_two_reward_models_is_two_series(tmp_path):
  sft = make_stage(tmp_path / "sft", "sft")
  for name in ("rm_a", "rm_b"):
    values = {"model.path": "stage:sft", "train.epochs": 2.0 if name == "rm_b" else 1.0}
    reward = make_stage(tmp_path / name, "reward_model", values, sources={"model.path": sft})
    for target in (2.0, 4.0):
      make_ppo(tmp_path / f"{name}_{target:g}", sft, reward, target)
  assert len(table(content(tmp_path), "methods")) == 2


@pytest.mark.slow
def test_a_second_comparison_on_other_prompts_is_shown_or_named(tmp_path):
  a, b = (make_experiment(tmp_path / name) for name in "ab")
  make_comparison(tmp_path / "a/c", policies(a))
  make_comparison(tmp_path / "b/c", {"sft": (b["sft"], "SFT", 0.0, 0.6), "ppo_4": (b["ppo_4"], "PPO", 4.0, 2.0)})

  def only_all(found):
    found["splits"] = ["all"]
    for policy in found["policies"]:
      policy["splits"] = {"all": policy["splits"]["held_out"]}

  edit(tmp_path / "b/c/comparison.json", only_all)
  found = content(tmp_path)
  chart = found.sections[0].charts[0]
  ends = {row["run"] for row in chart.rows if row.get("final")}
  assert any("ppo_4" in run and run.startswith("b/") for run in ends) or ", all" in chart.note


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.jsonl", "stage.json", "model.json"])
def test_a_damaged_source_is_left_out_and_named(tmp_path, name):
  made = make_experiment(tmp_path)
  (made["sft"] / name).write_text("{\n")
  assert any("sft" in problem for problem in content(tmp_path).problems)


def test_answers_cut_short_are_no_traceback(tmp_path):
  path = make_experiment(tmp_path)["pairs"] / "answers.jsonl"
  path.write_text(path.read_text()[:-9])
  assert any("answers.jsonl" in problem for problem in content(tmp_path).problems)


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_damaged_scores_are_an_input_error(tmp_path, how):
  folder = make_comparison(tmp_path / "c", policies(make_experiment(tmp_path)))
  old = (folder / "scores.npz").read_bytes()
  flipped = bytearray(old)
  for i in range(200, 260):
    flipped[i] ^= 255
  (folder / "scores.npz").write_bytes({"cut": old[:-9], "empty": b"", "flipped": bytes(flipped)}[how])
  with pytest.raises(InputError, match=r"scores\.npz"):
    compare(f"{folder}:dpo_0.1", f"{folder}:dpo_0.5")


@pytest.mark.slow
@pytest.mark.parametrize("name", [b"dpo_\xff", b"esc\x1b[31m"])
def test_any_name_of_a_folder_makes_a_page(tmp_path, name):
  shutil.copytree(dpo(tmp_path / "x", 0.1, 1.0, 1.0), os.fsdecode(os.fsencode(tmp_path / "y") + b"/" + name))
  write_page(content(tmp_path / "y"), tmp_path / "out", "title")


def test_prompts_are_those_of_the_method_itself(tmp_path):
  folder = make_comparison(tmp_path / "c", policies(make_experiment(tmp_path)))

  def many(found):
    for policy in found["policies"]:
      for split in policy["splits"].values():
        split["prompts"] = 9999

  edit(folder / "comparison.json", many)
  assert table(content(tmp_path), "methods")["PPO, learned reward"]["held-out prompts"] == "64"  # its looks alone


def test_other_temperatures_are_other_keys(tmp_path):
  made = make_experiment(tmp_path)
  for name, temperature in (("c1", 1.0), ("c2", 0.2)):
    make_comparison(tmp_path / name, policies(made))
    edit(tmp_path / name / "comparison.json", lambda found, t=temperature: found.update(settings={"temperature": t}))
  assert not compare(f"{tmp_path}/c1:dpo_0.1", f"{tmp_path}/c2:dpo_0.1").same_keys


def test_a_run_that_diverged_does_not_end_where_it_was_last_finite(tmp_path):
  metrics = [look(0, 0.0, 0.6), look(4, 1.0, 2.0), look(8, "inf", "nan")]
  make_stage(tmp_path / "d", "preference", {"monitor.every": 4}, metrics=metrics)
  points = frontier_points(find_stages([tmp_path])[0], [], "true")
  assert not [point for point in points if point.step == 4 and point.final]


def test_chart_and_table_agree_where_a_seed_lacks_a_setting(tmp_path):
  for seed in range(3):
    for beta, kl in ((0.1, 4.0), (0.5, 1.0)):
      if (seed, beta) != (2, 0.1):
        dpo(tmp_path / f"s{seed}/dpo_{beta}", beta, kl, 1 + kl * (1 + seed), seed=seed)
  points = [p for p in frontier_points(find_stages([tmp_path])[0], [], "true") if p.series == "DPO"]
  drawn = {row["kl"]: row["reward"] for row in lines(points)}
  assert math.isclose(reward_at([p for p in points if p.final], 1.0).value, drawn[1.0])


def test_best_of_n_of_a_trained_policy_is_not_drawn_at_its_kl_to_itself(tmp_path):
  made = make_experiment(tmp_path)
  folder = make_stage(
    tmp_path / "b", "best_of_n", {"model.path": "stage:dpo_0.1"}, sources={"model.path": made["dpo_0.1"]}
  )
  point = {"n": 4, "kl/sequence": 0.64, "kl/sequence_error": 0.01, "reward/true": 4.4, "reward/true_error": 0.01}
  (folder / "best_of_n.json").write_text(json.dumps({"points": [point]}))
  points = frontier_points(find_stages([tmp_path])[0], [], "true")
  assert not [p for p in points if p.series == "best of N" and p.kl < 1]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["null\n", "[]\n", "{}\n", "5\n"])
def test_damaged_lines_of_samples_and_answers(tmp_path, text):
  made = make_experiment(tmp_path)
  folder = make_comparison(tmp_path / "c", policies(made))
  (folder / "answers.jsonl").write_text(text)
  content(tmp_path)  # a problem of the page, no traceback
  with pytest.raises(InputError):
    compare(f"{folder}:dpo_0.1", f"{folder}:dpo_0.5")
  next((made["dpo_0.1"] / "samples").iterdir()).write_text(text)
  with pytest.raises(InputError):
    compare(str(made["dpo_0.1"]), str(made["dpo_0.5"]))
