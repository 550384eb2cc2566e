"""The check for GPUs: its parts on the processor at a tiny size, and that they and the runner report what goes wrong."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu_check
from benchmarks.gpu import groups, parts, rows, setting, speed
from dpojax.data.formats import pretokenised
from dpojax.ops import attention_gpu

ROOT = pathlib.Path(__file__).parents[2]


def check(*options, **environment):
  command = [sys.executable, "-P", str(ROOT / "benchmarks/gpu_check.py"), *options]
  variables = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
  done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900)
  return done.returncode, done.stdout, done.stderr


@pytest.mark.long
def test_every_part_runs_without_a_gpu(tmp_path):
  code, said, errors = check(
    "--size=tiny",
    "--only=exact,attention,speed,trl",
    f"--out={tmp_path / 'tables.md'}",
    f"--raw={tmp_path / 'raw.json'}",
    "--limit=850",  # beside other load everything takes longer
  )
  assert code == 0, said + errors
  found = json.loads((tmp_path / "raw.json").read_text())
  assert {part["part"] for part in found["parts"]} == set(parts.PARTS)
  assert all(part["passed"] for part in found["parts"])
  tables = (tmp_path / "tables.md").read_text()
  assert all(f"| {name} | passed |" in tables for name in parts.PARTS)
  assert [step["pairs"] for step in found["steps"] if step["side"] == "dpojax"] == [8, 2]
  for step in found["steps"]:
    assert step["tokens_per_second"] > 0 and step["step_seconds"] > 0
    assert step["first_loss"] == pytest.approx(np.log(2), abs=1e-6)
  assert found["attentions"][0]["seconds"]["kernels"] > 0
  # torch and trl are no part of the project's environment.
  assert "Skipped: trl tiny:autocast@2: not installed here: torch, transformers, trl" in tables


@pytest.mark.slow
def test_without_a_gpu_the_measurements_are_skipped_and_it_says_why():
  code, said, errors = check("--only=speed,trl")
  assert code == 0, errors
  assert "SKIPPED  speed, trl: no GPU here: jax finds cpu (cpu)" in said


def test_every_part_belongs_to_one_group():
  grouped = [name for _, names in groups.GROUPS for name in names]
  assert sorted(grouped) == sorted(parts.PARTS)


@pytest.mark.slow
def test_a_part_that_fails_does_not_keep_others_from_being_reported(monkeypatch):
  def wrong(size):
    setting.within("difference", 2.0, 1.0)

  def broken(size):
    raise KeyError("a bug")

  monkeypatch.setattr(parts, "PARTS", {"wrong": wrong, "broken": broken, "right": lambda size: f"of {size}"})
  found = []
  parts.run_parts("tiny", found.append)
  assert [(part["part"], part["passed"], part["text"]) for part in found] == [
    ("wrong", False, "difference 2 (at most 1)"),
    ("broken", False, "KeyError: 'a bug'"),
    ("right", True, "of tiny"),
  ]


@pytest.mark.parametrize("number", [np.nan, np.inf, 1.1])
def test_a_figure_that_is_no_number_is_not_within_anything(number):
  with pytest.raises(setting.CheckError):
    setting.within("difference", number, 1.0)


@pytest.mark.slow
def test_other_attention_on_the_device_is_seen(monkeypatch):
  """A part in two thousand more, where kernels could be, fails the part that compares them with the block form."""
  attend = parts.packed_attention

  def off(*arrays, **options):
    return attend(*arrays, **options) * (1 if attention_gpu._switched_off else jnp.float32(1.0005))

  monkeypatch.setattr(parts, "packed_attention", off)
  with pytest.raises(setting.CheckError, match=r"float32 0\.0005"):
    parts.attention_kernels("tiny")


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
  """`Runner` starts this program in place of the check itself."""
  program = tmp_path / "part.py"
  monkeypatch.setattr(gpu_check, "__file__", str(program))
  return program


WRITES = "import json, sys\nopen(sys.argv[-1], 'a').write(json.dumps(dict(part=sys.argv[2], passed=True)) + '\\n')\n"


@pytest.mark.slow
def test_what_a_part_found_before_it_was_killed_is_kept(stand_in, capsys):
  runner = gpu_check.Runner("tiny", 60)
  stand_in.write_text(WRITES + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
  assert runner.start("exact", "one", most=30) == [dict(part="exact", passed=True)]
  assert runner.failed == ["exact one: exit code -9"]
  stand_in.write_text(WRITES + "print('told', file=sys.stderr); sys.exit(3)")
  runner.start("speed", most=30)
  assert runner.failed[1] == "speed: told"
  stand_in.write_text(WRITES + "import time; time.sleep(30)")
  assert runner.start("hangs", most=1) == [dict(part="hangs", passed=True)]
  assert runner.failed[2] == "hangs: ended after 1 s"
  assert capsys.readouterr().out.count("FAILED") == 3


def test_a_part_without_time_left_is_skipped(stand_in, capsys):
  runner = gpu_check.Runner("tiny", 5)
  assert runner.start("trl", "1.5B", most=100, least=40) == []
  assert runner.skipped == ["trl 1.5B: 5 s left, about 40 needed"]
  assert not runner.failed


def test_parts_not_reached_are_failures(stand_in):
  stand_in.write_text("import os; os._exit(1)")
  runner = gpu_check.Runner("tiny", 60)
  found = []
  gpu_check.exactness(runner, ["sampling"], found)
  assert found == []
  assert "sampling: not reached" in runner.failed


def test_parts_without_time_left_are_skipped_and_no_failures(stand_in):
  runner = gpu_check.Runner("tiny", gpu_check.LEAST - 1)
  gpu_check.exactness(runner, ["sampling", "twenty steps"], [])
  assert len(runner.skipped) == 2 and not runner.failed


@pytest.mark.parametrize("option", ["--only=foo", "--only=", "--parts=foo,sampling", "--models=foo"])
def test_wrong_names_are_refused(option):
  code, _, errors = check(option)
  assert code == 2
  assert f"error: {option}: it takes, by commas, " in errors


def children(process):
  """Of all its threads."""
  return [
    name for file in pathlib.Path(f"/proc/{process}/task").glob("*/children") for name in file.read_text().split()
  ]


def gone(process, seconds=20.0):
  deadline = time.monotonic() + seconds
  while pathlib.Path(f"/proc/{process}/exe").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  return not pathlib.Path(f"/proc/{process}/exe").exists()


@pytest.mark.slow
def test_a_part_ends_when_the_check_is_killed(tmp_path):
  part = "import os, time; from benchmarks.gpu_check import end_with; end_with(os.getppid()); time.sleep(60)"
  start = f"subprocess.Popen([sys.executable, '-c', {part!r}], stdout=subprocess.DEVNULL)"
  whole = f"import subprocess, sys, time; print({start}.pid, flush=True); time.sleep(60)"
  running = subprocess.Popen([sys.executable, "-c", whole], cwd=ROOT, stdout=subprocess.PIPE, text=True)
  child = int(running.stdout.readline())
  assert not gone(child, 2)
  running.kill()
  running.communicate()
  assert gone(child, 10)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_part_that_runs_and_what_was_found_is_shown(tmp_path, sent):
  command = [sys.executable, "-P", str(ROOT / "benchmarks/gpu_check.py"), "--size=tiny", "--only=exact"]
  variables = os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path)}
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  running = subprocess.Popen(command, cwd=ROOT, env=variables, **pipes)
  for line in running.stdout:
    if line.startswith("{"):
      break  # the device is described; the first group begins
  deadline = time.monotonic() + 20
  while not (parts := children(running.pid)) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert len(parts) == 1
  running.send_signal(sent)
  said, errors = running.communicate(timeout=30)
  assert gone(parts[0], 3)
  assert running.returncode == 1
  assert f"FAILED   stopped by {sent.name}" in said
  assert "Traceback" not in errors
  assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_rows_are_real_pairs_that_our_own_format_reads():
  pairs = rows.read_ids(512)
  assert all(pretokenised.FORMAT.detects(pair) for pair in pairs[:3])
  lengths = [len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in pairs]
  assert min(lengths) > 10 and 500 < max(lengths) <= 640
  assert max(max(pair["prompt_ids"]) for pair in pairs) < 49152
  with pytest.raises(ValueError, match="holds 512 pairs, not 513"):
    rows.read_ids(513)
  tiny = rows.read_rows(5, vocabulary=64, longest=24)
  assert all(tiny[i].row_tokens() <= 24 and max(tiny[i].prompt) < 64 for i in range(5))


def test_the_tables_say_what_was_asked_of_the_card():
  runner = gpu_check.Runner("small", 1)
  runner.skip("trl", "not installed here: trl")
  step = dict(side="dpojax", model="1.5B", pairs=64, tokens_per_second=5e4, step_seconds=0.5, flops_per_second=3.5e14)
  steps = [
    step | dict(peak_bytes=30e9, planned_bytes=31e9),
    dict(side="TRL autocast", model="1.5B", pairs=8, tokens_per_second=2e4, step_seconds=1.0, peak_bytes=60e9),
  ]
  ceiling = dict(flops=7e14, bytes=3e12)
  text = gpu_check.tables(dict(kind="a card", jax="0.11.2"), ceiling, [], steps, [], runner)
  assert "a card, jax 0.11.2" in text
  assert "| 1.5B | dpojax | 64 | 50,000 | 2.50 | 0.500 | 50 % | 30.00 | 31.00 |" in text
  assert "| 1.5B | TRL autocast | 8 | 20,000 | 1.00 | 1.000 | - | 60.00 | - |" in text
  assert "Skipped: trl: not installed here: trl." in text


@pytest.mark.parametrize("name", speed.SHAPES)
def test_shapes_are_models_with_rows_for_every_pair(name):
  shape = speed.SHAPES[name]
  config = shape.config()
  assert config.head_dim * config.heads == config.hidden
  assert shape.row_length >= 640
  assert [run.partition("@")[0].split("+")[0] for run in shape.trl] == ["autocast"] * len(shape.trl)
