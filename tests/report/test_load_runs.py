"""Runs as data frames: what is found at any depth, and what a row holds."""

import datetime
import json

import pytest
from made_stages import look, make_comparison, make_experiment, make_stage, train_rows

from dpojax.errors import InputError
from dpojax.report import load_frontier, load_points, load_runs
from dpojax.report.stages import find_stages


def test_a_row_a_run_at_any_depth(tmp_path):
  for seed in (0, 1):
    make_experiment(tmp_path / "runs" / f"seed_{seed}", betas=(0.1, 10.0), seed=seed)
  runs = load_runs(tmp_path / "runs").set_index("name")
  assert len(runs) == 2 * 7
  row = runs.loc["seed_1/dpo_0.1"]
  assert (row["recipe"], row["method"], row["knob"], row["knob_value"], row["seed"]) == (
    "preference",
    "DPO",
    "β 0.1",
    0.1,
    1,
  )
  assert (row["status"], row["steps"], row["seconds"], row["device"], row["commit"][:6]) == (
    "finished",
    40,
    20.0,
    "cpu",
    "c0ffee",
  )
  assert row["eval/rewards/accuracies"] == 0.7 and row["folder"] == str(tmp_path / "runs" / "seed_1" / "dpo_0.1")
  assert row["train/loss"] == pytest.approx((1 / 37 + 1 / 38 + 1 / 39 + 1 / 40) / 4)
  assert (
    row["setting/loss.beta"] == 0.1 and "setting/seed" not in runs and "setting/optimizer.learning_rate" not in runs
  )
  assert (
    row["policy/kl/sequence"] == load_points(tmp_path).query("name == 'runs/seed_1/dpo_0.1'")["kl/sequence"].iloc[-1]
  )


def test_a_row_a_look(tmp_path):
  make_stage(tmp_path / "r", "preference", metrics=[look(0, 0, 0.5), *train_rows(4), look(4, 1.5, 2.0, length=3.0)])
  points = load_points(tmp_path / "r")
  assert points[["step", "kl/sequence", "reward/true"]].values.tolist() == [[0, 0, 0.5], [4, 1.5, 2.0]]
  assert points["reward/length"].isna().tolist() == [True, False] and set(points["name"]) == {"r"}


def test_names_tell_apart_what_two_folders_call_alike(tmp_path):
  for folder in ("a/x", "b/x"):
    make_stage(tmp_path / folder, "sft")
  stages, _ = find_stages([tmp_path / "a" / "x", tmp_path / "b" / "x"])
  assert [stage.name for stage in stages] == [str(tmp_path / "a" / "x"), str(tmp_path / "b" / "x")]
  assert [stage.name for stage in find_stages([tmp_path / "a", tmp_path / "b"])[0]] == ["a/x", "b/x"]
  assert len(find_stages([tmp_path, tmp_path / "a"])[0]) == 2  # given twice, found once


def test_numbers_in_names_are_in_order(tmp_path):
  for name in ("beta=10", "beta=2", "beta=0.5"):
    make_stage(tmp_path / name, "preference")
  assert [stage.name for stage in find_stages([tmp_path])[0]] == ["beta=0.5", "beta=2", "beta=10"]


def test_one_damaged_record_hides_no_other(tmp_path):
  make_stage(tmp_path / "good", "sft")
  bad = make_stage(tmp_path / "bad", "sft")
  record = json.loads((bad / "stage.json").read_text())
  record["settings"]["seed"] = 9
  (bad / "stage.json").write_text(json.dumps(record))
  stages, problems = find_stages([tmp_path])
  assert [stage.name for stage in stages] == ["good"]
  assert len(problems) == 1 and str(bad / "stage.json") in problems[0]


def test_a_run_that_has_just_begun_has_no_numbers(tmp_path):
  make_stage(tmp_path / "r", "preference", ended=False, model=None)
  (row,) = load_runs(tmp_path).to_dict("records")
  assert (row["status"], row["steps"], row["seconds"]) == ("unfinished", 0, None)


def test_a_stage_without_steps_lasted_as_long_as_its_log(tmp_path):
  folder = make_stage(tmp_path / "p", "pairs", model=None)
  (folder / "log.txt").write_text("2026-01-01 00:00:10  begin\n  goes on\n2026-01-01 00:01:15  end\n")
  assert load_runs(tmp_path)["seconds"].tolist() == [65.0]


@pytest.mark.parametrize("name, said", [("empty", "no run is here"), ("nowhere", "no such folder")])
def test_where_no_run_is_it_says_so(tmp_path, name, said):
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match=said) as error:
    load_runs(tmp_path / name)
  assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_pause_between_a_stop_and_going_on_is_not_counted(tmp_path):
  folder = make_stage(tmp_path / "p", "pairs", model=None)
  local = [datetime.datetime(2026, 1, 1, 0, 0, 10), datetime.datetime(2026, 1, 2, 8, 0, 0)]
  starts = [{"started": time.astimezone(datetime.UTC).isoformat()} for time in local]
  (folder / "environment.json").write_text(json.dumps(starts))
  (folder / "log.txt").write_text(
    "2026-01-01 00:00:10  begin\n2026-01-01 00:00:40  stopped\n2026-01-02 08:00:02  goes on\n2026-01-02 08:00:07  end\n"
  )
  assert load_runs(tmp_path)["seconds"].tolist() == [30.0 + 7.0]


def test_the_frontier_as_a_frame_is_that_of_the_page(tmp_path):
  made = make_experiment(tmp_path)
  policies = {"sft": (made["sft"], "SFT", 0.0, 0.6), "dpo": (made["dpo_0.5"], "DPO", 2.0, 2.5)}
  make_comparison(tmp_path / "compared", policies)
  frame = load_frontier(tmp_path)
  (row,) = frame[(frame["run"] == "compared:dpo") & (frame["split"] == "held_out")].to_dict("records")
  assert (row["method"], row["knob"], row["kl"], row["reward"], row["final"]) == (
    "DPO",
    "\N{GREEK SMALL LETTER BETA} 0.5",
    2.0,
    2.5,
    True,
  )
  assert set(load_frontier(tmp_path, reward="learned")["source"]) == {"look", "comparison", "best of N"}
  with pytest.raises(InputError, match="measured are true, learned"):
    load_frontier(tmp_path, reward="none")


def test_a_damaged_run_is_warned_of(tmp_path):
  make_stage(tmp_path / "good", "sft")
  (make_stage(tmp_path / "bad", "sft") / "stage.json").write_text("{")
  with pytest.warns(UserWarning, match=r"left out: .*bad/stage\.json"):
    assert load_runs(tmp_path)["name"].tolist() == ["good"]
