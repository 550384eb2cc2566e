"""Programs kept on disk: used by the next process, and no damage, full disk or stranger's folder stops or changes a run."""

import ast
import os
import pathlib
import subprocess
import sys
import warnings
import zlib

import jax
import pytest

from dpojax.cli import compilation_cache
from dpojax.cli.compilation_cache import DIGEST, ENTRY, FOLDER, REFUSED, USED, Watch, begin, prepare, remove_unsound
from tests.cli.tiny_model import TinyModel
from tests.training.runs import timeless_metrics, train, write_config

ROOT = pathlib.Path(__file__).parents[2]
# A process that compiles one program of its own: prints its value, programs read and programs written.
PROGRAM = """
import sys
import jax
import jax.numpy as jnp
from dpojax.cli import compilation_cache
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
compilation_cache.begin()
exec(sys.argv[1])
function = jax.jit(lambda x: jnp.tanh(x @ x.T).sum())
value = float(function(jnp.ones((8, 8)) / 3))
print((value.hex(), events.count("cache_hits"), events.count("cache_misses")))
"""


def start(root, before="", **environment):
  """(value, programs read, programs written, lines on stderr) of PROGRAM with the cache in `root`."""
  variables = os.environ | {"JAX_COMPILATION_CACHE_DIR": "", FOLDER: str(root)}
  variables |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | environment
  command = [sys.executable, "-c", PROGRAM, before]
  done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  value, read, written = ast.literal_eval(done.stdout)
  return value, read, written, done.stderr.splitlines()


def entries(root):
  return sorted(pathlib.Path(root).rglob(f"*{ENTRY}"))


def digest_of(entry):
  return entry.with_name(entry.name.removesuffix(ENTRY) + DIGEST)


def used_of(entry):
  return entry.with_name(entry.name.removesuffix(ENTRY) + USED)


@pytest.fixture
def kept(tmp_path):
  """An entry as JAX and `Watch` write it."""
  entry = tmp_path / f"f{ENTRY}"
  entry.write_bytes(b"program")
  used_of(entry).write_bytes(b"12345678")
  Watch(tmp_path).add_digests()
  return entry


def test_a_sound_entry_stays(kept):
  for _ in range(2):
    assert remove_unsound(kept.parent) == []
    assert len(list(kept.parent.iterdir())) == 3 and kept.read_bytes() == b"program"


@pytest.mark.parametrize("content", [b"", b"prog", b"prografft", b"qrogram", b"program!"])
def test_a_damaged_entry_goes_and_is_named(kept, content):
  kept.write_bytes(content)
  assert remove_unsound(kept.parent) == [kept.name]
  assert list(kept.parent.iterdir()) == []


def test_an_entry_under_another_name_is_damaged(kept):
  for path in (kept, used_of(kept), digest_of(kept)):
    path.rename(path.with_name("g" + path.name[1:]))
  assert remove_unsound(kept.parent) == [f"g{ENTRY}"]


@pytest.mark.parametrize("missing", [DIGEST, USED, ENTRY])
def test_what_a_killed_process_left_goes_without_a_word(kept, missing):
  (kept.parent / f"f{missing}").unlink()
  assert remove_unsound(kept.parent) == []
  assert list(kept.parent.iterdir()) == []


def test_half_an_entry_gets_no_digest_and_one_that_is_gone_keeps_none(kept):
  (kept.parent / f"g{ENTRY}").write_bytes(b"ha")
  kept.unlink()  # as JAX does to make room
  used_of(kept).unlink()
  Watch(kept.parent).add_digests()
  assert [file.name for file in kept.parent.iterdir()] == [f"g{ENTRY}"]


@pytest.mark.slow
def test_each_program_has_its_digest_and_the_next_process_reads_it(tmp_path):
  value, read, written, lines = start(tmp_path)
  found = entries(tmp_path)
  assert (read, lines) == (0, []) and written == len(found) >= 1
  assert all(digest_of(entry).exists() for entry in found)
  assert start(tmp_path) == (value, written, 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "flipped inside"])
def test_what_is_damaged_is_compiled_and_written_again(tmp_path, how):
  value, _, written, _ = start(tmp_path)
  for entry in entries(tmp_path):
    content = bytearray(entry.read_bytes())
    if how == "flipped inside":  # past zlib's checksum, which zstandard does not have: XLA may crash
      inside = bytearray(zlib.decompress(content))
      inside[int(0.6 * len(inside))] ^= 4
      content = zlib.compress(bytes(inside))
    else:
      content = content[: len(content) // 2]
    entry.write_bytes(content)
  repaired = start(tmp_path)
  assert repaired[:3] == (value, 0, written)
  (line,) = repaired[3]
  assert "damaged and removed" in line and entries(tmp_path)[0].name in line
  assert start(tmp_path) == (value, written, 0, [])


@pytest.mark.slow
def test_damage_while_a_process_runs_costs_a_line(tmp_path):
  value, _, written, _ = start(tmp_path)
  damage = f"import pathlib\nfor f in pathlib.Path({str(tmp_path)!r}).rglob('*{ENTRY}'): f.write_bytes(b'no')"
  again = start(tmp_path, damage)
  assert again[:2] == (value, 0)
  (line,) = again[3]
  assert line.startswith("dpojax: compilation cache: ") and line.endswith("the program is compiled anew")
  assert start(tmp_path)[:3] == (value, 0, written) and start(tmp_path) == (value, written, 0, [])


@pytest.mark.slow
def test_a_program_that_xla_refuses_ends_the_cache(tmp_path):
  """A sound entry, by its digest, of what is no program."""
  value = start(tmp_path)[0]
  for entry in entries(tmp_path):
    entry.write_bytes(zlib.compress(b"0000 no program"))
    digest_of(entry).unlink()
    Watch(entry.parent).add_digests()
  again = start(tmp_path)
  assert again[:2] == (value, 0)
  assert len(again[3]) == 1 and "XLA refuses programs" in again[3][0]
  assert len(list(tmp_path.rglob(REFUSED))) == 1
  assert start(tmp_path) == (value, 0, 0, [])


@pytest.mark.slow
def test_what_a_process_killed_between_two_files_left_does_not_stop_the_next(tmp_path):
  """JAX writes nothing at all where an entry lacks the time of its last use."""
  value, _, written, _ = start(tmp_path)
  used_of(entries(tmp_path)[0]).unlink()
  assert start(tmp_path) == (value, written - 1, 1, [])
  assert start(tmp_path) == (value, written, 0, [])


@pytest.mark.long
def test_processes_that_start_at_the_same_time_agree(tmp_path):
  code = f"from tests.cli.test_compilation_cache import start; print(start({str(tmp_path)!r})[::3])"
  command = [sys.executable, "-c", code]
  both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
  said = {process.communicate(timeout=300)[0] for process in both}
  assert len(said) == 1
  value, lines = ast.literal_eval(said.pop())
  again = start(tmp_path)
  assert lines == again[3] == [] and again[0] == value


@pytest.mark.slow
def test_the_size_is_limited(tmp_path):
  value = start(tmp_path)[0]
  whole = sum(entry.stat().st_size for entry in entries(tmp_path))
  for entry in entries(tmp_path):
    entry.unlink()
  limited = start(tmp_path, JAX_COMPILATION_CACHE_MAX_SIZE=str(whole - 1))
  assert limited[0] == value and limited[3] == []
  assert 0 < sum(entry.stat().st_size for entry in entries(tmp_path)) < whole
  for limit in ("1", "0"):
    empty = tmp_path / limit
    assert start(empty, JAX_COMPILATION_CACHE_MAX_SIZE=limit)[0::3] == (value, []) and entries(empty) == []


def test_other_warnings_are_shown_as_ever(tmp_path, capsys):
  shown = []
  watch = Watch(tmp_path)
  watch._show = lambda *arguments: shown.append(str(arguments[0]))
  for text in ("mind the gap", "Error writing persistent compilation cache entry for 'f': OSError: [Errno 5] no"):
    for _ in range(2):
      watch.warning(UserWarning(text), UserWarning, "file", 1)
  assert shown == ["mind the gap"] * 2
  assert capsys.readouterr().err == (
    f"dpojax: compilation cache: {tmp_path}: OSError: [Errno 5] no; programs of this run are not kept\n"
  )


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
def test_a_cache_set_up_or_turned_off_by_the_user_is_left_alone(tmp_path, monkeypatch, name):
  monkeypatch.setenv(FOLDER, "" if name == FOLDER else str(tmp_path / "ours"))
  # The other two are read when JAX is imported; what they set is set here.
  option = {"JAX_COMPILATION_CACHE_DIR": ("jax_compilation_cache_dir", str(tmp_path / "theirs"))}.get(
    name, ("jax_enable_compilation_cache", name != "JAX_ENABLE_COMPILATION_CACHE")
  )
  before, shows = getattr(jax.config, option[0]), warnings.showwarning
  jax.config.update(*option)
  settings = dict(jax.config.values)
  try:
    begin()
    assert jax.config.values == settings and warnings.showwarning is shows and not (tmp_path / "ours").exists()
  finally:
    jax.config.update(option[0], before)


def mounted(folder, options):
  folder.mkdir(exist_ok=True)
  done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")


@pytest.mark.slow
def test_a_full_disk_costs_a_line_and_leaves_no_half_entry(tmp_path):
  mounted(tmp_path / "disk", "size=24k,mode=700")
  try:
    root = tmp_path / "disk" / "xla"
    fill = f"import pathlib; pathlib.Path({str(tmp_path / 'disk' / 'fill')!r}).write_bytes(bytes(8 * 1024))"
    value, _, _, lines = start(root, fill)
    assert len(lines) == 1 and "No space left on device" in lines[0] and "are not kept" in lines[0]
    assert all(used_of(entry).exists() for entry in entries(root))
    (tmp_path / "disk" / "fill").unlink()
    assert start(root)[0] == value
  finally:
    subprocess.run(["umount", tmp_path / "disk"], check=True)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_costs_a_line(tmp_path):
  mounted(tmp_path / "disk", "size=64k,ro")
  try:
    _, read, written, lines = start(tmp_path / "disk" / "xla")
    assert (read, written) == (0, 0) and len(lines) == 1
    assert lines[0].endswith("Read-only file system; programs are compiled at every start")
  finally:
    subprocess.run(["umount", tmp_path / "disk"], check=True)


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_costs_a_line(tmp_path):
  mounted(tmp_path / "disk", "size=1m,mode=700")
  try:
    root = tmp_path / "disk" / "xla"
    value, _, _, _ = start(root)
    subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
    again = start(root)
    assert again[0] == value and len(again[3]) == 1 and "Read-only file system" in again[3][0]
  finally:
    subprocess.run(["umount", tmp_path / "disk"], check=True)


def run(model, **environment):
  """(answer, warnings) of `dpojax sample` in a process of its own."""
  variables = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | environment
  command = [sys.executable, "-m", "dpojax", "sample", f"--model={model}", "--prompt=is my parcel", "--max-tokens=6"]
  done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stdout, [line for line in done.stderr.splitlines() if "compilation cache" in line]


@pytest.mark.slow
def test_the_next_process_uses_what_one_compiled_and_compiles_what_is_damaged(tmp_path):
  model = TinyModel(tmp_path / "model").path
  variables = {"DPOJAX_COMPILATION_CACHE": str(tmp_path / "xla"), "JAX_COMPILATION_CACHE_DIR": ""}
  answer, warnings = run(model, **variables)
  kept = entries(tmp_path / "xla")
  assert kept and warnings == []
  for entry in kept:
    used_of(entry).write_bytes(bytes(8))
  assert run(model, **variables) == (answer, [])
  assert entries(tmp_path / "xla") == kept
  assert all(used_of(entry).read_bytes() != bytes(8) for entry in kept)  # read, every one
  contents = {file: file.read_bytes() for file in kept}
  for number, file in enumerate(kept):
    data = contents[file]
    file.write_bytes(data[: len(data) // 2] if number % 2 else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
  repaired, warnings = run(model, **variables)
  assert repaired == answer and len(warnings) == 1
  assert entries(tmp_path / "xla") == kept and all(file.stat().st_size for file in kept)
  assert run(model, **variables) == (answer, [])


@pytest.mark.long
def test_metrics_are_the_same_bits_with_and_without(tmp_path):
  settings = {"train.steps": 3, "data.eval_fraction": 0.0, "checkpoint.every": 0}
  settings |= {"evaluation.every": 0, "monitor.every": 0, "monitor.prompts": 0}
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
