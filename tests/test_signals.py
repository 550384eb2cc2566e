"""A command that is asked to stop: once, twice, and where it cannot hear; small programs in the place of commands."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import pathlib, sys, threading, time, types
from dpojax import files, signals
from dpojax.cli import main as front
signals.GRACE = 1.0
folder = pathlib.Path(sys.argv[1])

def deaf():
  while True:
    try:
      time.sleep(0.01)
    except BaseException:
      pass

def command(arguments):
  print("begins", end="", flush=False)
  with signals.at_end(lambda: (folder / "told").write_text("")), files.replacing(folder / "out") as out:
    BODY
  return 0

sys.modules["dpojax.cli.train"] = sys.modules["dpojax.cli.score"] = types.SimpleNamespace(main=command)
code = front.main([sys.argv[2]], own_process=True)
AFTER
sys.exit(code)
"""
READY = '(folder / "ready").write_text("")'


def start(folder, name, body, after=""):
  code = PROGRAM.replace("BODY", "\n    ".join(body.splitlines())).replace("AFTER", after)
  process = subprocess.Popen(
    [sys.executable, "-c", code, folder, name], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  deadline = time.monotonic() + 30
  while not (folder / "ready").exists():
    assert time.monotonic() < deadline and process.poll() is None, process.communicate()
    time.sleep(0.005)
  return process


def ended(process, timeout=10):
  began = time.monotonic()
  out, errors = process.communicate(timeout=timeout)
  assert b"Traceback" not in errors, errors.decode()
  return process.returncode, out.decode(), errors.decode(), time.monotonic() - began


def others(folder):
  return sorted(path.name for path in folder.iterdir() if path.name != "ready")


@pytest.mark.parametrize(
  "name, number, code", [("train", 15, 75), ("train", 2, 75), ("score", 15, 143), ("score", 2, 130)]
)
def test_the_first_ends_a_command_that_has_nothing_to_save(tmp_path, name, number, code):
  process = start(tmp_path, name, f"{READY}\ntime.sleep(60)")
  process.send_signal(number)
  found, out, errors, seconds = ended(process)
  assert (found, out) == (code, "begins") and seconds < 1
  again = "; the same command goes on" if code == 75 else ""
  assert errors == f"dpojax: stopped by {signal.Signals(number).name}{again}\n"
  assert others(tmp_path) == ["told"]  # and the unfinished file is gone


@pytest.mark.parametrize("body", ["deaf()", "threading.Event().wait()", "while True: sorted(range(10**5), key=str)"])
def test_what_does_not_hear_is_ended_too(tmp_path, body):
  process = start(tmp_path, "score", f"{READY}\n{body}")
  process.send_signal(signal.SIGTERM)
  found, _, errors, seconds = ended(process)
  assert (found, errors) == (143, "dpojax: stopped by SIGTERM\n") and seconds < 2


@pytest.mark.slow
def test_who_has_saved_and_does_not_end_is_ended(tmp_path):
  body = f"with signals.held() as stop:\n  {READY}\n  while not stop.number: time.sleep(0.01)\ndeaf()"
  process = start(tmp_path, "train", body)
  process.send_signal(signal.SIGTERM)
  found, _, _, seconds = ended(process)
  assert found == 75 and 0.8 < seconds < 4


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("waits", ["deaf()", "threading.Lock().acquire(); threading.Event().wait()", "time.sleep(60)"])
def test_the_second_ends_what_saves(tmp_path, waits, second):
  process = start(tmp_path, "train", f"with signals.held():\n  {READY}\n  while True: {waits}")
  process.send_signal(signal.SIGINT)
  time.sleep(0.6)
  assert process.poll() is None
  process.send_signal(second)
  found, _, _, seconds = ended(process)
  assert found == 75 and seconds < 1
  assert others(tmp_path) == ["told"]


def test_what_meets_the_tidying_is_not_said_as_an_error(tmp_path):
  body = f"""with signals.at_end(lambda: (files.remove_unfinished(), time.sleep(0.5))):
  {READY}
  while list(folder.glob(".out*")): pass
  out.close(); pathlib.Path(out.name).rename(folder / "out")"""
  process = start(tmp_path, "train", body)
  process.send_signal(signal.SIGTERM)
  found, _, errors, _ = ended(process)
  assert (found, errors) == (75, "dpojax: stopped by SIGTERM; the same command goes on\n")


def test_two_together_are_one(tmp_path):
  body = f"with signals.held() as stop:\n  {READY}\n  while not stop.number: time.sleep(0.01)\n  time.sleep(0.5)\n  (folder / 'saved').write_text('')\nsignals.check()"
  process = start(tmp_path, "train", body)
  process.send_signal(signal.SIGTERM)
  time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  found, _, errors, _ = ended(process)
  assert (found, errors) == (75, "dpojax: stopped by SIGTERM; the same command goes on\n")
  assert others(tmp_path) == ["saved"]


def test_a_command_that_has_ended_is_not_failed_by_a_late_signal(tmp_path):
  process = start(tmp_path, "score", "pass", after=f"{READY}\ntime.sleep(60)")
  process.send_signal(signal.SIGTERM)
  found, out, _, seconds = ended(process)
  assert (found, out) == (0, "begins") and seconds < 1
  assert others(tmp_path) == ["out"]


def test_threads_that_libraries_leave_do_not_keep_a_stopped_command(tmp_path):
  body = f"threading.Thread(target=time.sleep, args=(60,)).start()\n{READY}\ntime.sleep(60)"
  process = start(tmp_path, "train", body)
  process.send_signal(signal.SIGTERM)
  assert ended(process)[0] == 75


def test_a_reader_that_has_stopped_reading_does_not_keep_it(tmp_path):
  process = start(tmp_path, "train", f"{READY}\nprint('x' * 10**6, flush=True)")
  time.sleep(0.2)
  process.send_signal(signal.SIGTERM)
  time.sleep(0.5)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=10) == 75


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_command_that_has_ended_keeps_its_code_while_the_interpreter_ends(tmp_path, number):
  # Modules are torn down after the interpreter has given signals back to the system: this one waits for the signal there.
  late = """
class Late:
  def __del__(self, ready=(folder / "ready"), sleep=time.sleep):
    ready.write_text("")
    sleep(1)
import builtins
builtins.late = Late()
"""
  process = start(tmp_path, "score", "pass", after=late)
  process.send_signal(number)
  assert ended(process)[0] == 0
