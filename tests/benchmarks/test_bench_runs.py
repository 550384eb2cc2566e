"""What the benchmarks make of processes, logs and marks, and that the commands they run are ones dpojax takes."""

import argparse
import ast
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import environment, startup, trace_startup, trl
from dpojax.config import load_config

ROOT = pathlib.Path(__file__).parents[2]


def test_a_busy_machine_is_refused_unless_forced(monkeypatch):
  seconds = iter([100.0, 100.6, 200.0, 200.6, 300.0, 300.1])
  monkeypatch.setattr(environment, "busy_seconds", lambda: next(seconds))
  monkeypatch.setattr(environment.time, "sleep", lambda seconds: None)
  with pytest.raises(SystemExit, match=r"others use 0\.20 processors"):
    environment.refuse_if_busy(force=False)
  assert environment.refuse_if_busy(force=True) == pytest.approx(0.2)
  assert environment.refuse_if_busy(force=False) == pytest.approx(0.1 / 3)


def test_a_process_is_measured_with_the_processes_it_waits_for():
  inner = "x = bytearray(300_000_000); x[::4096] = b'1' * len(x[::4096])"
  outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True); print('done')"
  # From a small process: between fork and exec a child counts as large as the process that starts it, this one of tests.
  measure = (
    f"from benchmarks import environment; print(environment.measure([{sys.executable!r}, '-c', {outer!r}], {{}}))"
  )
  said = subprocess.run([sys.executable, "-c", measure], cwd=ROOT, capture_output=True, text=True, check=True).stdout
  output, cost = ast.literal_eval(said)
  assert output == "done\n"
  assert 0.3 < cost["peak_gb"] < 1.0


def test_a_process_that_fails_says_why():
  with pytest.raises(SystemExit, match=r"(?s)exit code 3.*too bad"):
    environment.measure([sys.executable, "-c", "import sys; print('too bad', file=sys.stderr); sys.exit(3)"], {})


def test_the_description_of_the_machine_is_json():
  found = environment.describe_machine() | environment.describe_software()
  assert json.loads(json.dumps(found)) == found
  assert found["cores"] >= 1 and found["memory_gb"] > 0 and found["packages"]["jax"].startswith("0.")


def mark(name, start, end, compiling=0.0, **more):
  return dict(name=name, start=start, end=end, compiling=compiling, **more)


def test_a_start_is_split_into_parts_that_add_up():
  marks = [
    mark("imports", 100.5, 102.0),
    mark("model", 102.25, 105.0, compiling=0.5),
    mark("data", 105.0, 106.0),
    mark("batches", 106.0, 106.5),
    mark("trainer", 106.5, 107.5, compiling=0.25),
    mark("step", 130.0, 131.5, so_far={"trace": 2.0, "lower": 1.0, "compile": 10.0}),
  ]
  found = startup.split_start(100.0, marks)
  assert found["total"] == 31.5
  assert (found["interpreter"], found["imports"], found["config"]) == (0.5, 1.5, 0.25)
  assert (found["model"], found["trainer"], found["compile"]) == (2.25, 0.75, 13.0)
  assert found["step"] == 24.0 - (13.0 - 0.75)  # between the trainer and step 1, but for compilation there
  assert found["rest"] == 0.0
  assert sum(found[name] for name in startup.SPLIT) == found["total"]


def test_marks_time_functions_and_the_compilation_inside_them(tmp_path):
  file = tmp_path / "run.marks"
  marks = trace_startup.Marks(file, None)

  def work(x):
    marks.listen("/jax/core/compile/backend_compile_duration", 0.5)
    marks.listen("/jax/of/no/interest", 9.0)
    return x + 1

  marks.listen("/jax/core/compile/jaxpr_trace_duration", 2.0)
  assert marks.timed("step", work)(1) == 2
  (found,) = trace_startup.read_marks(file)
  assert found["compiling"] == 0.5 and found["so_far"] == {"trace": 2.0, "lower": 0.0, "compile": 0.5}
  assert found["end"] >= found["start"]


def test_what_is_timed_exists():
  # `install` replaces functions of this very process, so only their names are looked up here.
  import functools
  import importlib

  for module, path in trace_startup.TIMED.values():
    assert callable(functools.reduce(getattr, path.split("."), importlib.import_module(module)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("reference, kind", [("live", "live"), ("cached", "cache")])
def test_dpojax_takes_the_options_it_is_compared_with(precision, reference, kind, tmp_path):
  arguments = argparse.Namespace(dpojax_model="model", precision=precision, reference=reference, dpojax_option=[])
  command = trl.dpojax_command(arguments, tmp_path / "rows.jsonl", 64, tmp_path / "run", 32)
  words = [word for word in command if word.startswith("--config.")]
  config = load_config(str(ROOT / "experiments/smollm2_hh.py"), words)
  assert config.model.precision == precision and (kind == "live" or config.reference.precision == precision)
  assert (config.reference.kind, config.batch.size, config.train.epochs) == (kind, 32, 2.0)


def test_dpojax_takes_the_options_of_a_start(tmp_path):
  arguments = argparse.Namespace(
    config="experiments/smollm2_hh.py", precision="float32", rows=10, batch=2, pairs="pairs.jsonl", option=[]
  )
  words = [word for word in startup.train_words(arguments, tmp_path) if word.startswith("--config.")]
  config = load_config(str(ROOT / arguments.config), words)
  assert (config.train.steps, config.monitor.prompts, config.data.source) == (1, 0, "file")


def write_run(folder, tokens):
  folder.mkdir()
  rows = [{"step": 0, "split": "eval", "loss": 1.0}]
  rows += [{"step": i, "split": "train", "num_tokens": n, "time/step": 10.0**-i} for i, n in enumerate(tokens, start=1)]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return folder


def test_the_epoch_after_the_warm_up_is_what_counts(tmp_path):
  assert trl.dpojax_seconds(write_run(tmp_path / "one", [5, 8, 14, 16]), 2, 1, 8) == pytest.approx(0.0011)
  assert trl.dpojax_seconds(write_run(tmp_path / "two", [5, 10, 14]), 1, 2, 4) == pytest.approx(0.001)


@pytest.mark.parametrize("pairs, batch, epochs", [(32, 32, 2), (32, 16, 1), (32, 4, 1), (8, 8, 2)])
def test_a_warm_up_has_two_steps_or_more(pairs, batch, epochs):
  assert trl.warm_up_epochs(pairs, batch) == epochs


def test_an_epoch_of_other_tokens_is_refused(tmp_path):
  with pytest.raises(AssertionError, match="held 8 tokens, not 9"):
    trl.dpojax_seconds(write_run(tmp_path / "run", [5, 8, 14, 16]), 2, 1, 9)
  with pytest.raises(AssertionError, match="4 steps logged, 6 expected"):
    trl.dpojax_seconds(tmp_path / "run", 3, 1, 8)


def test_filling_a_cache_is_timed_without_compilation(tmp_path):
  marks = [mark("fill", 10.0, 14.0, compiling=1.5), mark("step", 20.0, 30.0, compiling=3.0), mark("fill", 40.0, 41.0)]
  (tmp_path / "run.marks").write_text("".join(json.dumps(m) + "\n" for m in marks))
  assert trl.dpojax_reference(tmp_path / "run", 77) == dict(seconds=3.5, compile_seconds=1.5, tokens=77)


def test_tokens_are_those_of_each_answer_with_its_prompt():
  assert trl.num_tokens(dict(prompt_ids=[1, 2, 3], chosen_ids=[4], rejected_ids=[5, 6])) == 2 * 3 + 1 + 2


def test_a_run_that_is_repeated_trains_again(monkeypatch, tmp_path):
  """In the folder of an ended run there would be nothing left to do, and its figures would be read a second time."""
  trained = []

  def measured(command, environment, processors):
    if (rows := next((word for word in command if word.startswith("--rows=")), None)) is not None:
      pathlib.Path(rows.removeprefix("--rows=")).write_text(
        '{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}\n' * 2
      )
    else:
      trained.append(next(word for word in command if word.startswith("--workdir=")))
    return "", dict(peak_gb=1.0, others=0.0, process_seconds=1.0)

  monkeypatch.setattr(trl, "refuse_if_busy", lambda force: 0.0)
  monkeypatch.setattr(trl, "measure", measured)
  monkeypatch.setattr(trl, "dpojax_seconds", lambda *given: 1.0)
  monkeypatch.setattr(trl, "dpojax_reference", lambda *given: None)
  words = ["model", "pairs", "--runs=dpojax@2,dpojax@1,dpojax@2", "--repetitions=2", "--num-pairs=2"]
  monkeypatch.setattr("sys.argv", ["trl.py", *words, f"--out={tmp_path / 'found.json'}"])
  trl.main()
  assert len(trained) == len(set(trained)) == 6


def test_runs_of_another_precision_are_refused(monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["trl.py", "model", "pairs", "--runs=autocast@1"])
  with pytest.raises(SystemExit):
    trl.main()
  assert "autocast@1 is no run in --precision=float32" in capsys.readouterr().err
