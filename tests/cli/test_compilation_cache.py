"""Programs kept on disk: used by the next process, and no damage, full disk or stranger's folder stops or changes a run."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
from jax._src import compilation_cache as jax_cache

from dpojax.cli import compilation_cache
from dpojax.cli.compilation_cache import ENTRY, FOLDER, REFUSED, Programs, begin, prepare
from dpojax.files import PART
from tests.cli.tiny_model import TinyModel
from tests.training.runs import timeless_metrics, train, write_config

ROOT = pathlib.Path(__file__).parents[2]
LIMIT = 10_000


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / "xla" / "here"
  made.mkdir(parents=True)
  return made


@pytest.fixture
def programs(folder):
  return Programs(folder, LIMIT)


@pytest.fixture
def jax_settings():
  """JAX's own cache as it was."""
  seconds = jax.config.jax_persistent_cache_min_compile_time_secs
  yield
  jax_cache.reset_cache()
  jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def entries(root):
  return sorted(pathlib.Path(root).rglob(f"*{ENTRY}"))


def test_what_is_kept_is_found_again(programs, folder):
  assert programs.get("f") is None
  programs.put("f", b"program")
  assert Programs(folder, LIMIT).get("f") == b"program"
  assert [file.name for file in folder.iterdir()] == ["f" + ENTRY]


@pytest.mark.parametrize("place", [0, 31, 32, 36, -1])
def test_a_flipped_bit_removes_the_entry_and_it_is_kept_anew(programs, folder, capsys, place):
  programs.put("f", b"program")
  (file,) = entries(folder)
  data = bytearray(file.read_bytes())
  data[place] ^= 4
  file.write_bytes(data)
  assert programs.get("f") is None and programs.get("f") is None and entries(folder) == []
  assert capsys.readouterr().err.count("\n") == 1
  programs.put("f", b"program")
  assert programs.get("f") == b"program"


@pytest.mark.parametrize("length", [0, 20, 32, 38])
def test_a_truncated_entry_is_damaged(programs, folder, length):
  programs.put("f", b"program")
  os.truncate(entries(folder)[0], length)
  assert programs.get("f") is None


def test_an_entry_under_another_name_is_damaged(programs, folder):
  programs.put("f", b"program")
  os.rename(entries(folder)[0], folder / f"g{ENTRY}")
  assert programs.get("g") is None


def test_the_least_recently_used_go_first_and_old_parts_with_them(programs, folder):
  other = folder.parent / "other_version"
  other.mkdir()
  for age, (where, name) in enumerate([(folder, "a"), (other, "b"), (folder, "c"), (folder, "d")]):
    Programs(where, LIMIT).put(name, bytes(2968))  # 3,000 bytes with the digest
    os.utime(where / (name + ENTRY), (1000 + age, 1000 + age))
  assert [file.stem for file in entries(folder.parent)] == ["c", "d", "b"]
  assert programs.get("c") is not None  # used now
  for name in ("new", "old"):
    (folder / (name + PART)).touch()
  os.utime(folder / ("old" + PART), (1000, 1000))
  programs.put("e", bytes(5968))
  assert [file.stem for file in entries(folder.parent)] == ["c", "e"]
  assert [file.stem for file in folder.glob(f"*{PART}")] == ["new"]


def test_what_exceeds_the_limit_alone_displaces_nothing(programs, folder):
  programs.put("a", b"program")
  programs.put("b", bytes(LIMIT))
  assert [file.stem for file in entries(folder)] == ["a"]


def test_a_program_that_xla_refuses_ends_the_cache(programs, folder, capsys, monkeypatch, jax_settings):
  programs.put("f", b"program")
  programs.get("f")
  programs.put("f", b"program")  # JAX does so after a program could not be loaded
  assert (folder / REFUSED).exists() and "refuses" in capsys.readouterr().err
  monkeypatch.setenv(FOLDER, str(folder))
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.setattr(compilation_cache, "prepare", lambda root: root)
  begin()
  assert jax_cache._cache is None


def test_a_folder_of_others_is_refused(tmp_path, monkeypatch):
  made = prepare(tmp_path / "xla")
  for folder in (made, made.parent):
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o770)
    with pytest.raises(PermissionError, match="chmod go-w"):
      prepare(tmp_path / "xla")
    folder.chmod(0o750)
    prepare(tmp_path / "xla")
  monkeypatch.setattr(os, "geteuid", lambda: made.stat().st_uid + 1)
  with pytest.raises(PermissionError):
    prepare(tmp_path / "xla")


def test_other_processors_have_another_folder(tmp_path, monkeypatch):
  one = prepare(tmp_path)
  assert prepare(tmp_path) == one
  monkeypatch.setattr(compilation_cache, "_processors", lambda: 1000)
  assert prepare(tmp_path) != one
  monkeypatch.undo()
  read = pathlib.Path.read_text

  def without_a_feature(path, **options):
    return read(path, **options).replace(" sse2 ", " ")

  monkeypatch.setattr(pathlib.Path, "read_text", without_a_feature)
  if " sse2 " in read(pathlib.Path("/proc/cpuinfo")):
    assert prepare(tmp_path) != one


@pytest.mark.parametrize(
  "name", ["JAX_COMPILATION_CACHE_DIR", "DPOJAX_COMPILATION_CACHE", "JAX_ENABLE_COMPILATION_CACHE"]
)
def test_a_cache_set_up_or_turned_off_by_the_user_is_left_alone(tmp_path, monkeypatch, jax_settings, name):
  jax_cache.reset_cache()
  monkeypatch.setenv(FOLDER, "" if name == FOLDER else str(tmp_path / "ours"))
  # The other two are read when JAX is imported; what they set is set here.
  option = {"JAX_COMPILATION_CACHE_DIR": ("jax_compilation_cache_dir", str(tmp_path / "theirs"))}.get(
    name, ("jax_enable_compilation_cache", name != "JAX_ENABLE_COMPILATION_CACHE")
  )
  before = getattr(jax.config, option[0])
  jax.config.update(*option)
  try:
    begin()
    assert jax_cache._cache is None and not (tmp_path / "ours").exists()
  finally:
    jax.config.update(option[0], before)


def mounted(folder, options):
  folder.mkdir(exist_ok=True)
  done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")


def test_a_full_disk_costs_a_line_and_leaves_nothing_behind(tmp_path, capsys):
  mounted(tmp_path / "disk", "size=64k,mode=700")
  try:
    folder = tmp_path / "disk" / "xla" / "here"
    folder.mkdir(parents=True)
    programs = Programs(folder, 2**20)
    programs.put("small", b"program")
    programs.put("large", bytes(100_000))
    programs.put("later", b"program")
    assert [file.name for file in folder.iterdir()] == ["small" + ENTRY]
    assert programs.get("small") == b"program"
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device; programs of this run are not kept" in error
  finally:
    subprocess.run(["umount", tmp_path / "disk"], check=True)


def test_a_folder_that_cannot_be_written_costs_a_line(tmp_path, capsys, monkeypatch, jax_settings):
  mounted(tmp_path / "disk", "size=64k,ro")
  try:
    monkeypatch.setenv(FOLDER, str(tmp_path / "disk" / "xla"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    begin()
    assert jax_cache._cache is None
    assert capsys.readouterr().err.endswith("Read-only file system; programs are compiled at every start\n")
    programs = Programs(tmp_path / "disk", LIMIT)
    programs.put("f", b"program")
    assert programs.get("f") is None
    assert "Read-only file system; programs of this run are not kept" in capsys.readouterr().err
  finally:
    subprocess.run(["umount", tmp_path / "disk"], check=True)


def run(model, **environment):
  """(answer, warnings) of `dpojax sample` in a process of its own."""
  variables = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | environment
  command = [sys.executable, "-m", "dpojax", "sample", f"--model={model}", "--prompt=is my parcel", "--max-tokens=6"]
  done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stdout, [line for line in done.stderr.splitlines() if "compilation cache" in line]


def test_the_next_process_uses_what_one_compiled_and_compiles_what_is_damaged(tmp_path):
  model = TinyModel(tmp_path / "model").path
  variables = {"DPOJAX_COMPILATION_CACHE": str(tmp_path / "xla"), "JAX_COMPILATION_CACHE_DIR": ""}
  answer, warnings = run(model, **variables)
  kept = entries(tmp_path / "xla")
  assert len(kept) >= 3 and warnings == []
  for file in kept:
    os.utime(file, (1000, 1000))
  assert run(model, **variables) == (answer, [])
  assert entries(tmp_path / "xla") == kept
  assert all(file.stat().st_mtime > 1000 for file in kept)  # read, every one
  contents = {file: file.read_bytes() for file in kept}
  for number, file in enumerate(kept):
    data = contents[file]
    file.write_bytes(data[: len(data) // 2] if number % 2 else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
  repaired, warnings = run(model, **variables)
  assert repaired == answer and len(warnings) == 1
  assert entries(tmp_path / "xla") == kept and all(file.stat().st_size for file in kept)
  assert run(model, **variables) == (answer, [])


@pytest.mark.slow
def test_metrics_are_the_same_bits_with_and_without(tmp_path):
  settings = {"train.steps": 3, "data.eval_fraction": 0.0, "checkpoint.every": 0}
  settings |= {"evaluation.every": 0, "evaluation.policy_every": 0, "evaluation.prompts": 0}
  config = write_config(tmp_path, **settings)
  off = {"JAX_COMPILATION_CACHE_DIR": "", "DPOJAX_COMPILATION_CACHE": "", "DPOJAX_LAUNCH": "plain"}
  on = {"JAX_COMPILATION_CACHE_DIR": "", "DPOJAX_COMPILATION_CACHE": str(tmp_path / "programs"), "DPOJAX_LAUNCH": ""}
  on["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  metrics = []
  for name, environment in (("plain", off), ("first", on), ("second", on)):
    train(config, tmp_path / name, **environment)
    metrics.append(timeless_metrics(tmp_path / name))
  assert metrics[0] == metrics[1] == metrics[2]
  assert any("train_step" in file.name for file in entries(tmp_path / "programs"))
