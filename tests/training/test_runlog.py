"""The run log: crash-safe rows, resuming, and what reaches the screen."""

import io
import json
import sys

import pytest

from dpojax.errors import CheckpointError, ConfigError
from dpojax.report.stages import read_stage
from dpojax.training import runlog
from dpojax.training.numbers import format_duration, format_number, tied
from dpojax.training.runlog import METRICS, RunLog, in_words, read_metrics
from dpojax.training.stage_record import StageRecord, write_record
from dpojax.training.time_left import TimeLeft

ROW = {"loss": 0.5, "rewards/accuracies": 0.712, "rewards/margins": -0.25, "tokens_per_second": 1234.5, "lr": 1e-6}


def lines(folder):
  return (folder / METRICS).read_text().splitlines()


def test_rows_are_on_disk_at_once_and_valid_json(tmp_path):
  with RunLog(tmp_path, stream=io.StringIO()) as log:
    log.record(1, "train", {"loss": 0.1 + 0.2, "a": float("nan"), "b": float("-inf"), "n": 12})
    text = lines(tmp_path)  # before close
  strict = json.loads(text[0], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
  assert strict == {"step": 1, "split": "train", "loss": 0.1 + 0.2, "a": "nan", "b": "-inf", "n": 12}
  (row,) = read_metrics(tmp_path / METRICS)
  assert row["loss"] == 0.1 + 0.2 and row["a"] != row["a"] and row["b"] == float("-inf") and row["split"] == "train"


def test_every_torn_last_line_is_dropped_on_resume(tmp_path):
  with RunLog(tmp_path, stream=io.StringIO()) as log:
    log.record(1, "train", {"loss": 1.0})
    log.record(2, "train", {"loss": 2.0})
  whole = (tmp_path / METRICS).read_bytes()
  first = whole.index(b"\n") + 1
  for cut in range(first, len(whole)):
    (tmp_path / METRICS).write_bytes(whole[:cut])
    assert [row["step"] for row in read_metrics(tmp_path / METRICS)] == [1]
    with RunLog(tmp_path, stream=io.StringIO()) as log:
      log.record(2, "train", {"loss": 2.0})
    assert (tmp_path / METRICS).read_bytes() == whole


def test_truncating_leaves_no_step_twice_or_missing(tmp_path):
  with RunLog(tmp_path, stream=io.StringIO()) as log:
    for step in range(1, 8):
      log.record(step, "train", {"loss": step})
      if step % 2 == 0:
        log.record(step, "eval", {"loss": -step})
    log.truncate_after(4)
    log.record(5, "train", {"loss": 50})
  rows = [(row["step"], row["split"], row["loss"]) for row in read_metrics(tmp_path / METRICS)]
  train = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]
  assert [(step, loss) for step, split, loss in rows if split == "train"] == train
  assert [(step, loss) for step, split, loss in rows if split == "eval"] == [(2, -2), (4, -4)]
  with RunLog(tmp_path, stream=io.StringIO()) as log:
    log.truncate_after(-1)
  assert lines(tmp_path) == []


def test_the_latest_record_of_a_step_stands_alone(tmp_path):
  with RunLog(tmp_path, stream=io.StringIO()) as log:
    for step in (4, 8):
      log.record(step, "train", {"loss": 1.0})
      log.record_latest(step, "rollout", {"objective/reward": 0.1 + 0.2, "x": float("nan")})
    before = lines(tmp_path)
    log.record_latest(8, "rollout", {"objective/reward": 0.1 + 0.2, "x": float("nan")})
    assert lines(tmp_path) == before
    log.record_latest(8, "rollout", {"objective/reward": 2.0})
    assert lines(tmp_path) == [*before[:3], json.dumps({"step": 8, "split": "rollout", "objective/reward": 2.0})]
    assert log.has(8, "train") and log.has(4, "rollout")


@pytest.mark.parametrize("bad", ['{"step": 2, "split"', "[1]", '{"split": "train"}', '{"step": "2"}', "\x00\x00"])
def test_a_damaged_line_is_named(tmp_path, bad):
  (tmp_path / METRICS).write_text(f'{{"step": 1, "split": "train"}}\n{bad}\n{{"step": 3, "split": "train"}}\n')
  with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: not a row of metrics"):
    read_metrics(tmp_path / METRICS)


def test_no_file_reads_as_no_rows(tmp_path):
  assert read_metrics(tmp_path / METRICS) == []


def test_plain_lines_where_there_is_no_terminal(tmp_path):
  stream = io.StringIO()
  with RunLog(tmp_path, total_steps=10, log_every=4, stream=stream) as log:
    for step in range(1, 11):
      log.progress(step, ROW)
    log.message("done")
  printed = stream.getvalue().splitlines()
  assert [line.split("  ")[0] for line in printed] == ["step 4/10", "step 8/10", "step 10/10", "done"]
  assert "loss 0.5  accuracy 71.2%  margin -0.25  tokens/s 1,234" in printed[0] and "left 0s" in printed[0]
  assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()
  logged = (tmp_path / "log.txt").read_text().splitlines()
  assert [line.split("  ", 1)[1] for line in logged] == printed


class Screen(io.StringIO):
  """A terminal that knows carriage return, newline and erase-line; what a person sees at the end."""

  def isatty(self):
    return True

  def shown(self) -> list[str]:
    rows, column = [""], 0
    text = self.getvalue().replace("\x1b[2K", "\x00")
    for char in text:
      if char == "\x00":
        rows[-1] = ""
      elif char == "\r":
        column = 0
      elif char == "\n":
        rows.append("")
        column = 0
      else:
        rows[-1] = rows[-1][:column].ljust(column) + char + rows[-1][column + 1 :]
        column += 1
    return rows


def test_one_live_line_that_messages_do_not_tear(tmp_path, monkeypatch):
  monkeypatch.setattr(runlog, "REDRAW_SECONDS", 0.0)
  monkeypatch.setenv("COLUMNS", "60")
  screen = Screen()
  with RunLog(tmp_path, total_steps=3, stream=screen) as log:
    log.message("begin")
    log.progress(1, ROW | {"loss": 123456.0})
    log.progress(2, ROW)
    log.message("saved step 2")
    assert [row[:8] for row in screen.shown()] == ["begin", "saved st", "step 2/3"]
    log.progress(3, ROW)
  rows = screen.shown()
  assert rows[:2] == ["begin", "saved step 2"] and rows[3:] == [""]
  assert rows[2].startswith("step 3/3  left 0s  loss 0.5  accuracy 71.2%") and len(rows[2]) < 60  # never wraps


def test_the_live_line_is_not_redrawn_too_often(tmp_path):
  screen = Screen()
  with RunLog(tmp_path, total_steps=1000, log_every=100, stream=screen) as log:
    for step in range(1, 501):
      log.progress(step, ROW)
  assert screen.getvalue().count("\x1b[2K") < 100
  assert len((tmp_path / "log.txt").read_text().splitlines()) == 5


def test_time_left(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(runlog.time, "monotonic", lambda: now[0])
  stream = io.StringIO()
  with RunLog(tmp_path, total_steps=100, stream=stream) as log:
    for step in range(41, 61):
      now[0] += 2.0
      log.progress(step, {"loss": 0.5})
  assert stream.getvalue().splitlines()[-1] == "step 60/100  left 1m20s  loss 0.5"  # 40 steps of two seconds


def test_tensorboard_events(tmp_path):
  pytest.importorskip("tensorboardX")
  with RunLog(tmp_path, stream=io.StringIO(), tensorboard=True) as log:
    log.record(1, "train", {"loss": 0.5, "bad": float("nan")})
  (file,) = (tmp_path / "tensorboard").iterdir()
  assert b"train/loss" in file.read_bytes()


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(ConfigError, match=r"logging\.tensorboard.*pip install 'dpojax\[tensorboard\]'"):
    RunLog(tmp_path, tensorboard=True)


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (0.693147, "0.6931"),
    (12345.6, "12,346"),
    (-1234.5, "-1,234"),
    (999.96, "1000"),
    (1.5e-6, "1.5e-06"),
    (3, "3"),
    (-0.0, "0"),
    (float("nan"), "nan"),
    (float("-inf"), "-inf"),
    (1e20, "1e+20"),
  ],
)
def test_numbers_for_people(value, text):
  assert format_number(value) == text


@pytest.mark.parametrize(
  ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (185, "3m05s"), (3725, "1h02m"), (float("inf"), "?")]
)
def test_durations_for_people(seconds, text):
  assert format_duration(seconds) == text


def test_passing_text_does_not_stay(tmp_path, monkeypatch):
  monkeypatch.setattr(runlog, "REDRAW_SECONDS", 0.0)
  for step in (0, 2):
    screen = Screen()
    with RunLog(tmp_path, total_steps=2, stream=screen) as log:
      if step:
        log.progress(step, {"loss": 0.5})
      log.status("look: 3 answers")
      assert screen.shown() == ["look: 3 answers"]
      log.message("policy writes")
      log.status("look: 4 answers")
    assert screen.shown() == ["policy writes", *(["step 2/2  loss 0.5"] if step else []), ""]


@pytest.mark.parametrize(
  ("metrics", "said"),
  [
    ({"rewards/accuracies": 0.113, "rewards/margins": 3e-8}, "accuracy tied  margin 0"),  # still the reference
    ({"rewards/accuracies": float("nan"), "rewards/margins": 0.5}, "accuracy tied  margin 0.5"),  # labels are ties
    ({"rewards/accuracies": 0.712, "rewards/margins": 0.5}, "accuracy 71.2%  margin 0.5"),
    ({"rewards/accuracies": 0.5}, "accuracy 50.0%"),
    ({"loss": float("nan")}, "loss nan"),
  ],
)
def test_shares_of_ties_are_called_tied(metrics, said):
  assert in_words(metrics) == said
  assert tied(metrics, "accuracy/length_matched") == tied(metrics, "rewards/accuracies") == ("tied" in said)
  assert tied(metrics, "displacement/chosen") == (metrics.get("rewards/margins") == 3e-8)
  assert not tied(metrics, "rewards/margins")


def test_what_the_policy_writes_in_a_line_most_important_first():
  metrics = {
    "length/policy": 26.72,
    "kl/sequence": 4.348,
    "kl/token": 0.1588,
    "kl/token_error": 0.004,
    "finished": 0.98,
  }
  metrics |= {"reward/length": 26.72, "reward/true": 2.347, "reward/true_error": 0.068, "entropy": 1.2}
  metrics |= {"win_rate": 0.812, "win_rate_low": 0.76}
  said = in_words(metrics)
  assert said == (
    "true reward 2.347  reward length 26.72  KL a token 0.1588  win rate 81.2%  length 26.72  ended 98%  KL an answer 4.348"
  )
  alone = in_words({name: value for name, value in metrics.items() if name not in ("reward/length", "kl/sequence")})
  kept = f"policy writes, after step 300: {alone}"[:79]
  assert "true reward 2.347  KL a token 0.1588  win rate" in kept


def rollout_line(step):
  return {"objective/score": float(step), "objective/kl": -1e-9 if step == 0 else 0.25, "objective/entropy": 1.0}


def policy_step(**changes):
  moved = {"policy/approx_kl": 1e-13, "policy/clip_fraction": 0.0, "loss": 0.02, "taken": 1.0}
  return moved | {"tokens_per_second": 900.0} | changes


def test_a_step_of_a_policy_gradient_tells_of_the_roll_out_it_learns_from(tmp_path):
  stream = io.StringIO()
  with RunLog(tmp_path, total_steps=8, stream=stream) as log:
    log.record(0, "rollout", rollout_line(0))
    log.progress(1, policy_step())
    log.record(4, "rollout", rollout_line(4))  # made before the line of step 4, which is written one step late
    log.progress(4, policy_step(**{"policy/approx_kl": 0.0282, "policy/clip_fraction": 0.178}))
    log.record(8, "rollout", rollout_line(8))
    log.progress(8, policy_step())
  lines = [line.split("  ")[0] + line[line.index("  score") :] for line in stream.getvalue().splitlines()]
  assert lines == [
    "step 1/8  score 0.000  KL 0.000  moved 0  clipped 0.0%  tokens/s 900",
    "step 4/8  score 0.000  KL 0.000  moved 0.0282  clipped 17.8%  tokens/s 900",
    "step 8/8  score 4.000  KL 0.250  moved 0  clipped 0.0%  tokens/s 900",
  ]


def test_steps_that_were_left_out_have_one_line_a_roll_out(tmp_path):
  """Roll-outs of 4 steps; step 2 is refused, and step 6, after which the run goes on anew; steps 7 and 8 have no rows."""
  stream = io.StringIO()

  def take(log, steps):
    for step in steps:
      refused = step in (2, 6, 14)
      row = policy_step(**{"policy/approx_kl": 0.0543 if refused else 0.01, "taken": float(not refused)})
      row = {"taken": 0.0} if step in (7, 8) else row
      log.record(step, "train", row)
      log.progress(step, row)

  for steps in (range(1, 7), range(7, 15)):
    with RunLog(tmp_path, total_steps=14, stream=stream) as log:
      log.time_left.cycle, log.move_limit = 4, 0.02
      take(log, steps)
  lines = stream.getvalue().splitlines()
  assert [line.split("  ")[0] for line in lines] == [
    *(f"step {step}/14" for step in (1, 3)),
    "roll-out 0: 1 of 4 steps left out: the policy moved 0.0543, limit 0.02",
    *(f"step {step}/14" for step in (4, 5)),
    "roll-out 1: 3 of 4 steps left out: the policy moved 0.0543, limit 0.02",
    *(f"step {step}/14" for step in (9, 10, 11, 12, 13)),
    "roll-out 3: 1 of 2 steps left out: the policy moved 0.0543, limit 0.02",
    "step 14/14",
  ]
  logged = (tmp_path / "log.txt").read_text().splitlines()
  assert [line.split("  ", 1)[1] for line in logged] == lines


def test_a_normalised_score_is_called_so(tmp_path):
  stream = io.StringIO()
  with RunLog(tmp_path, total_steps=8, stream=stream) as log:
    log.record(0, "rollout", {"objective/score": 0.5, "objective/kl": 0.25, "objective/reward_raw": 9.0})
    log.progress(1, {"policy/approx_kl": 0.0})
    log.record(1, "rollout", {"objective/score": 0.5, "objective/kl": 0.25})
    log.progress(2, {"policy/approx_kl": 0.0})
  first, second = stream.getvalue().splitlines()
  assert "score (normalised) 0.500  KL 0.250" in first and "score 0.500  KL 0.250" in second


def test_the_roll_out_of_a_line_is_found_again_after_a_restart_and_a_truncation(tmp_path):
  with RunLog(tmp_path, stream=io.StringIO()) as log:
    for step in (0, 4, 8):
      log.record(step, "rollout", rollout_line(step))
  stream = io.StringIO()
  with RunLog(tmp_path, stream=stream) as log:
    log.progress(9, policy_step())
    log.truncate_after(4)
    log.progress(5, policy_step())
  assert [line.split("score ")[1].split()[0] for line in stream.getvalue().splitlines()] == ["8.000", "4.000"]


def test_the_time_left_is_guessed_from_whole_roll_outs(tmp_path, monkeypatch):
  """Every first step of 40 takes 40 seconds more: a window of less than a roll-out would say ten times too little."""
  now = [0.0]
  monkeypatch.setattr(runlog.time, "monotonic", lambda: now[0])
  stream = io.StringIO()
  with RunLog(tmp_path, total_steps=4000, log_every=400, stream=stream) as log:
    log.time_left.cycle = 40
    for step in range(1, 400 + 1):
      now[0] += 41.0 if step % 40 == 1 else 1.0
      log.progress(step, policy_step())
  assert "left 2h00m" in stream.getvalue()  # 3600 steps of 2 seconds


@pytest.mark.parametrize("start", [0, 80, 90])
def test_the_time_left_is_right_at_every_step_from_the_second_roll_out_on(monkeypatch, start):
  """Roll-outs of 40 steps that take 60 seconds to make; a step takes 1."""
  now, total, took = [1000.0], 800, []
  monkeypatch.setattr(runlog.time, "monotonic", lambda: now[0])
  for step in range(1, total + 1):
    place = (step - 1) % 40
    took.append((60.0 if place == 0 else 0.0) + 1.0)
  left = TimeLeft()
  left.cycle = 40
  left.begin(start)
  for step in range(start + 1, total + 1):
    now[0] += took[step - 1]
    left.taken(step)
    found, truth = left.seconds(total), sum(took[step:])
    if step == start + 1 or (start % 40 and step < 120 + 1):
      assert found is None
    elif found is not None:
      assert found == pytest.approx(truth, abs=1e-6)
  assert left.seconds(total) == 0


def test_what_compiles_does_not_count_once_two_roll_outs_are_whole(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(runlog.time, "monotonic", lambda: now[0])
  left = TimeLeft()
  left.cycle = 4
  left.begin(0)
  for step in range(1, 13):
    now[0] += {1: 500.0, 5: 7.0, 9: 7.0}.get(step, 1.0)
    left.taken(step)
    if step >= 8:
      assert left.seconds(20) == pytest.approx((20 - 8) / 4 * 10 - (now[0] - 513.0), abs=1e-9)


def test_a_log_that_has_changed_is_named_by_the_next_start_and_by_who_reads_its_times(tmp_path):
  write_record(tmp_path, StageRecord(settings={"recipe": "pairs"}))
  with RunLog(tmp_path, stream=io.StringIO()) as log:
    log.message("begin")
  assert read_stage(tmp_path).seconds == 0.0
  text = (tmp_path / "log.txt").read_text()
  (tmp_path / "log.txt").write_text(text.replace("begin", "began"))
  with pytest.raises(CheckpointError, match=r"log\.txt: damaged or changed"):
    _ = read_stage(tmp_path).seconds
  with RunLog(tmp_path, stream=io.StringIO()):
    pass
  assert "log.txt: damaged or changed" in (tmp_path / "log.txt").read_text()
  assert read_stage(tmp_path).seconds is not None
