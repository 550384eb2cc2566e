"""One process at a time in a folder: refused with who has it, taken over where nobody has, on shared disks too."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest

from dpojax.errors import CheckpointError
from dpojax.training import folder_lock
from dpojax.training.folder_lock import FILE, INHERITED, STALE, check_free, inherited, locked

ROOT = pathlib.Path(__file__).parents[2]
HOLDS = """
import sys, time
from dpojax.training.folder_lock import locked
with locked(sys.argv[1]):
  print("has it", flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def other():
  """Starts processes that have a folder until they are closed."""
  started = []

  def start(folder):
    process = subprocess.Popen(
      [sys.executable, "-c", HOLDS, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    started.append(process)
    assert process.stdout.readline() == "has it\n"
    return process

  yield start
  for process in started:
    process.kill()
    process.wait()


def edit(folder, **changes):
  """Makes the lock another's."""
  lock = folder / FILE
  lock.write_text(json.dumps(json.loads(lock.read_text()) | changes))


def take(folder):
  said = []
  with locked(folder, say=said.append):
    assert json.loads((folder / FILE).read_text())["pid"] == os.getpid()
  return said


def test_it_is_there_while_the_block_runs_and_says_who(tmp_path):
  with locked(tmp_path):
    found = json.loads((tmp_path / FILE).read_text())
    assert found["pid"] == os.getpid() and found["host"] == os.uname().nodename and found["started"].isdecimal()
    with locked(tmp_path / "."):  # a stage alone in its workdir
      pass
    assert (tmp_path / FILE).exists()
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_goes_with_an_error_and_with_folders_that_it_made(tmp_path, error):
  with pytest.raises(error), locked(tmp_path / "a/b"):
    assert (tmp_path / "a/b" / FILE).exists()
    raise error
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spelled", ["{}", "{}/", "{}/../{}", "link"])
def test_the_second_is_told_who_has_it(tmp_path, other, spelled):
  folder = tmp_path / "run"
  (tmp_path / "link").symlink_to(folder)
  process = other(folder)
  words = rf"process {process.pid} on {os.uname().nodename}, since .*, is writing there, .* use another --workdir"
  place = spelled.format(folder, folder.name) if spelled != "link" else str(tmp_path / "link")
  for door in (check_free, lambda place: locked(place).__enter__()):
    with pytest.raises(CheckpointError, match=words):
      door(place)
  process.stdin.close()
  assert process.wait(timeout=10) == 0
  check_free(place)
  assert not folder.exists()


def test_one_that_was_killed_is_taken_over_with_a_line(tmp_path, other):
  process = other(tmp_path)
  process.kill()
  process.wait()
  check_free(tmp_path)
  (line,) = take(tmp_path)
  assert line.startswith(f"{tmp_path}: the lock of process {process.pid} on") and line.endswith(
    "was left behind (it is gone); taken over"
  )
  assert take(tmp_path) == []


def test_a_number_that_belongs_to_another_process_now_is_nobodys(tmp_path, other):
  other(tmp_path)
  edit(tmp_path, started="1")
  assert "it is gone" in take(tmp_path)[0]


def test_of_another_machine_the_heartbeat_decides(tmp_path, other):
  other(tmp_path)
  edit(tmp_path, machine="elsewhere", host="far")
  with pytest.raises(
    CheckpointError, match=rf"on far, .* wait for it \(or, if it has ended, until {STALE:.0f} s after"
  ):
    take(tmp_path)
  past = time.time() - STALE - 5
  os.utime(tmp_path / FILE, (past, past))
  assert "no sign of it for 30" in take(tmp_path)[0]


def test_a_heartbeat_is_seen(tmp_path, monkeypatch):
  monkeypatch.setattr(folder_lock, "HEARTBEAT", 0.02)
  with locked(tmp_path):
    os.utime(tmp_path / FILE, (1000, 1000))
    deadline = time.monotonic() + 10
    while (tmp_path / FILE).stat().st_mtime < 2000:
      assert time.monotonic() < deadline
      time.sleep(0.01)


def test_a_process_that_sleeps_has_its_folder_on_its_own_machine(tmp_path, other):
  process = other(tmp_path)
  os.kill(process.pid, 19)  # SIGSTOP
  os.utime(tmp_path / FILE, (1000, 1000))
  try:
    with pytest.raises(CheckpointError, match=f"process {process.pid}"):
      take(tmp_path)
  finally:
    os.kill(process.pid, 18)


def test_a_copy_of_a_folder_in_use_is_free(tmp_path, other):
  other(tmp_path / "run")
  shutil.copytree(tmp_path / "run", tmp_path / "copy")
  assert "a copy of" in take(tmp_path / "copy")[0]
  with pytest.raises(CheckpointError):
    take(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_lock_is_taken_over_once_it_is_old(tmp_path, content):
  (tmp_path / FILE).write_bytes(content)
  os.utime(tmp_path / FILE, (1000, 1000))
  assert "it is damaged" in take(tmp_path)[0]


def test_without_hard_links_it_works_too(tmp_path, other, monkeypatch):
  def refused(*_):
    raise OSError(errno.EPERM, "no links here")

  monkeypatch.setattr(folder_lock.os, "link", refused)
  assert take(tmp_path) == []
  other(tmp_path)
  with pytest.raises(CheckpointError):
    take(tmp_path)


@pytest.mark.slow
def test_of_many_that_take_over_one_has_it(tmp_path, other):
  """Each in a process of its own: all see the lock of one that is gone at the same time."""
  dead = other(tmp_path)
  dead.kill()
  dead.wait()
  code = (
    HOLDS.replace("with", f"while time.time() < {time.time() + 3}: pass\ntry:\n with", 1)
    .replace("  print", "   print")
    .replace("  sys.stdin", "   sys.stdin")
    + "\nexcept ValueError as error:\n  print('refused', flush=True)\n"
  )
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", code, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(5)
  ]
  try:
    said = [process.stdout.readline().strip() for process in processes]
  finally:
    for process in processes:
      process.kill()
      process.wait()
  assert sorted(said) == ["has it", *["refused"] * 4]


@pytest.mark.slow
def test_a_stage_of_the_command_that_has_the_folder_may_run(tmp_path, monkeypatch):
  with locked(tmp_path):
    variables = inherited(tmp_path)
  code = "import sys; from dpojax.training.folder_lock import check_free; check_free(sys.argv[1])"
  with locked(tmp_path):
    for given, allowed in [({}, False), (variables, False), (inherited(tmp_path), True)]:
      ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, env=os.environ | given, capture_output=True, text=True
      )
      assert (ran.returncode == 0) == allowed, ran.stderr
      assert allowed or "CheckpointError" in ran.stderr
  assert list(variables) == [INHERITED]


def test_one_whose_folder_was_taken_over_is_asked_to_stop(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(folder_lock, "HEARTBEAT", 0.02)
  killed = threading.Event()
  monkeypatch.setattr(folder_lock.os, "kill", lambda pid, number: killed.set())
  with locked(tmp_path):
    holder = dataclasses.replace(folder_lock._read(tmp_path / FILE), token="another", pid=1)
    (tmp_path / FILE).write_text(json.dumps(dataclasses.asdict(holder)))
    assert killed.wait(10)
  assert "another process has taken it over (process 1 on" in capsys.readouterr().err
  assert folder_lock._read(tmp_path / FILE) == holder  # it is not ours to remove
