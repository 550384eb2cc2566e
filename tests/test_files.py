"""Files are written whole or not at all, whatever stops the writing, and in one place of the package."""

import ast
import errno
import json
import os
import pathlib
import resource
import signal
import socket
import stat
import subprocess
import sys

import pytest

from dpojax import files
from dpojax.config.record import read_config, write_config
from dpojax.config.schema import RunConfig
from dpojax.files import (
  append_whole,
  destination,
  finite,
  is_part,
  json_text,
  lines_of,
  remove_unfinished,
  replacing,
  replacing_folder,
  replacing_path,
  write_atomically,
  write_json,
  write_json_lines,
)
from dpojax.references.record_store import RecordStore
from dpojax.training import manifest

ROOT = pathlib.Path(__file__).parents[1]


def left(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["eins\r\nzwei\n€", b"\x00\xff\r\n"])
@pytest.mark.parametrize("durable", [False, True])
def test_what_is_written_is_read(tmp_path, content, durable):
  for _ in range(2):
    write_atomically(tmp_path / "a.json", content, durable=durable)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "a.json").read_bytes() == expected and left(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error, before):
  file = tmp_path / "a.json"
  if before is not None:
    file.write_text(before)
  for context in (replacing(file), replacing_path(file)):
    with pytest.raises(error), context as opened:
      if not isinstance(opened, pathlib.Path):
        opened.write("new")
      raise error
    assert left(tmp_path) == ([] if before is None else ["a.json"])
  assert before is None or file.read_text() == before


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path):
  """RLIMIT_FSIZE stands in for a full disk: the kernel writes the first 4 KB and refuses the rest."""
  file = tmp_path / "a.json"
  file.write_text("old")
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
  try:
    with pytest.raises(OSError, match=r"a\.json") as caught:
      write_atomically(file, "x" * 100_000)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert caught.value.errno == errno.EFBIG
  assert file.read_text() == "old" and left(tmp_path) == ["a.json"]


def test_a_line_that_does_not_fit_is_not_appended_by_half(tmp_path):
  file = tmp_path / "a.jsonl"
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with open(file, "ab", buffering=0) as out:
    append_whole(out, b"one\n", file)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
      with pytest.raises(OSError, match=r"a\.jsonl"):
        append_whole(out, b"x" * 5000, file)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append_whole(out, b"two\n", file)
  assert file.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_last_steps_leaves_the_old_file(tmp_path, monkeypatch, call):
  file = tmp_path / "a.json"
  file.write_text("old")

  def refuse(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(files.os, call, refuse)
  with pytest.raises(OSError, match=r"No space left on device: .*a\.json"):
    write_atomically(file, "new", durable=True)
  assert file.read_text() == "old" and left(tmp_path) == ["a.json"]


def killed_while_writing(file):
  """A process that is killed with half of the new content on the disk."""
  code = f"""
import os, signal
from dpojax.files import replacing
with replacing({str(file)!r}) as out:
  out.write("ne"); out.flush()
  os.kill(os.getpid(), signal.SIGKILL)
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
  assert done.returncode == -signal.SIGKILL


def test_a_kill_leaves_the_old_file_and_a_part_that_nobody_reads(tmp_path):
  file = tmp_path / "config.json"
  write_config(RunConfig(), tmp_path)
  killed_while_writing(file)
  assert read_config(tmp_path) == RunConfig()
  (part,) = [path for path in tmp_path.iterdir() if path not in (file, tmp_path / "digests.json")]
  assert is_part(part) and part.read_text() == "ne" and not is_part(file)
  write_config(RunConfig(), tmp_path)  # and another one is written beside it
  assert json.loads(file.read_text()) and left(tmp_path) == [part.name, file.name, "digests.json"]


def test_parts_are_nobodys_content(tmp_path):
  """Of a checkpoint, of the cache of log-probs, of a run's samples, which are found by a pattern."""
  (tmp_path / "array").write_bytes(b"1")
  manifest.write_manifest(tmp_path, manifest.Manifest(step=1))
  killed_while_writing(tmp_path / manifest.NAME)
  assert list(manifest.verify(tmp_path).files) == ["array"]
  store = tmp_path / "store"
  RecordStore(store, warn=pytest.fail)
  killed_while_writing(store / "0a.records")
  RecordStore(store, warn=pytest.fail)
  samples = tmp_path / "samples"
  samples.mkdir()
  killed_while_writing(samples / "step_00000001.jsonl")
  assert not list(samples.glob("step_*.jsonl"))


def test_an_error_of_the_system_that_a_library_tells_of_is_one(tmp_path):
  with pytest.raises(OSError, match=r"No space left on device: .*a\.bin") as caught, replacing_path(tmp_path / "a.bin"):
    raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")
  assert (caught.value.errno, left(tmp_path)) == (errno.ENOSPC, [])


def test_permissions_are_those_of_a_plain_open(tmp_path):
  before = os.umask(0o027)
  try:
    write_atomically(tmp_path / "new", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o600)
    write_atomically(tmp_path / "new", "again")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
  finally:
    os.umask(before)


def test_what_cannot_be_written_is_known_before_the_block(tmp_path):
  (tmp_path / "folder").mkdir()
  for path, error in [("missing/a", FileNotFoundError), ("folder", IsADirectoryError)]:
    with pytest.raises(error, match=path), replacing(tmp_path / path):
      pytest.fail("the block began")
  assert left(tmp_path) == ["folder"] and left(tmp_path / "folder") == []


def test_a_name_as_long_as_a_file_system_allows_has_room_for_a_part(tmp_path):
  for name in ("x" * 255, "€" * 85):
    write_atomically(tmp_path / name, "content")
    assert (tmp_path / name).read_text() == "content"


def test_a_path_keeps_its_suffix_for_libraries_that_look_at_it(tmp_path):
  with replacing_path(tmp_path / "plot.svg") as part:
    assert part.suffix == ".svg" and is_part(part)
  assert left(tmp_path) == ["plot.svg"]


# module -> why it renames or writes by itself
EXCEPTIONS = {
  "files": "the one place",
  "training/checkpoint": "a damaged checkpoint's folder is moved out of the way",
  "training/folder_lock": "a lock that was left behind is moved out of the way",
  "cli/eval": "files of one evaluation change places together, its eval.json last",
  "sweeps/side_by_side": "what a stage says, while it says it",
  "report/figures": "matplotlib writes the path that is put in place",
  "bradley_terry/plots": "the same",
  "interop/safetensors": "the library writes the path that is put in place",
}
WRITERS = {
  "rename",
  "renames",
  "write_text",
  "write_bytes",
  "NamedTemporaryFile",
  "mkstemp",
  "TemporaryFile",
  "savefig",
  "save_file",
}


def writes(source):
  """Lines that rename, or write a file that they do not append to."""
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Call):
      continue
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    owner = getattr(getattr(node.func, "value", None), "id", "")
    if name == "replace":  # of os; or of a path, which takes one argument where a str's takes two
      found = owner == "os" or (len(node.args) == 1 and not node.keywords and owner != "dataclasses")
    elif name == "open" and owner != "os":
      modes = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
      found = any(isinstance(mode, ast.Constant) and str(mode.value)[:1] in ("w", "x") for mode in modes)
    else:
      found = name in WRITERS
    if found:
      yield node.lineno


@pytest.mark.slow
def test_files_are_put_in_place_here_alone():
  package = ROOT / "dpojax"
  found = {
    path.relative_to(package).with_suffix("").as_posix(): lines
    for path in sorted(package.rglob("*.py"))
    if (lines := list(writes(path.read_text(encoding="utf-8"))))
  }
  assert {name: lines for name, lines in found.items() if name not in EXCEPTIONS} == {}
  assert found.keys() == EXCEPTIONS.keys()


@pytest.mark.parametrize(
  "source",
  ["os.replace(a, b)", "a.rename(b)", "path.replace(other)", 'open(a, "w")', 'a.open(mode="wb")', 'a.write_text("")'],
)
def test_the_check_sees_what_writes(source):
  assert list(writes(source)) == [1]
  assert not list(writes('text.replace("a", "b"); dataclasses.replace(a, b=1); open(a, "ab"); open(a)'))


def test_json_lines_come_back_whatever_their_texts_hold(tmp_path):
  rows = [{"text": f"a{chr(code)}b"} for code in (*range(0x100), *range(0x2000, 0x2100), 0xD83D, 0xDE00, 0x1F600)]
  write_json_lines(tmp_path / "rows.jsonl", rows)
  assert [json.loads(line) for line in lines_of(tmp_path / "rows.jsonl")] == rows


def no_constants(text):
  """JSON as strict parsers read it."""
  return json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))


def test_numbers_that_json_lacks_are_named_or_taken_out(tmp_path):
  value = {"a": [1.5, float("nan"), (float("inf"),)], "b": {"c": -float("inf"), "d": "NaN"}, "e": True}
  assert no_constants(json_text(value)) == {"a": [1.5, "nan", ["inf"]], "b": {"c": "-inf", "d": "NaN"}, "e": True}
  assert finite(value) == ({"a": [1.5, None, [None]], "b": {"c": None, "d": "NaN"}, "e": True}, 3)
  write_json(tmp_path / "a.json", value)
  write_json_lines(tmp_path / "a.jsonl", [value, "\ud800"])
  assert no_constants((tmp_path / "a.json").read_text()) == no_constants(lines_of(tmp_path / "a.jsonl")[0])


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
  (tmp_path / "far").mkdir()
  (tmp_path / "far/file").write_text("old")
  (tmp_path / "far/file").chmod(0o640)
  (tmp_path / "near").symlink_to("far/file")
  (tmp_path / "again").symlink_to(tmp_path / "near")
  (tmp_path / "missing").symlink_to("far/new")
  inode = (tmp_path / "far/file").stat().st_ino
  write_atomically(tmp_path / "again", "new")
  write_atomically(tmp_path / "missing", b"made")
  assert (tmp_path / "far/file").read_text() == "new" and (tmp_path / "far/file").stat().st_ino != inode
  assert stat.S_IMODE((tmp_path / "far/file").stat().st_mode) == 0o640
  assert (tmp_path / "far/new").read_bytes() == b"made"
  assert all((tmp_path / name).is_symlink() for name in ("near", "again", "missing"))
  assert left(tmp_path / "far") == ["file", "new"] and left(tmp_path) == ["again", "far", "missing", "near"]


def test_links_that_lead_nowhere_are_refused_by_name(tmp_path):
  (tmp_path / "a").symlink_to("b")
  (tmp_path / "b").symlink_to("a")
  (tmp_path / "lost").symlink_to("no/folder")
  (tmp_path / "folder").symlink_to(tmp_path)
  for name, words in [
    ("a", "circle"),
    ("lost", "No such file"),
    ("folder", "folder"),
    ("x\0y", "NUL"),
    ("x" * 300, "long"),
  ]:
    with pytest.raises(OSError, match=words) as caught, replacing(tmp_path / name):
      pytest.fail("the block began")
    assert caught.value.filename == str(tmp_path / name)
  assert left(tmp_path) == ["a", "b", "folder", "lost"]


def test_a_device_is_written_into_and_stays(tmp_path):
  for name in ("null", "full"):
    (tmp_path / name).symlink_to(f"/dev/{name}")
    before = os.stat(f"/dev/{name}")
    if name == "null":
      write_atomically(tmp_path / name, "gone")
      write_atomically(f"/dev/{name}", b"gone")
    else:
      with pytest.raises(OSError, match=r"No space left on device: .*full"):
        write_atomically(tmp_path / name, "too much")
    after = os.stat(f"/dev/{name}")
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert (tmp_path / name).is_symlink()
  assert not [path for path in pathlib.Path("/dev").iterdir() if is_part(path)]


def test_a_fifo_is_written_into_once_all_is_there(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with open(tmp_path / "read", "wb") as read:
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=read)
  with replacing(tmp_path / "pipe", "wb") as file:
    file.write(b"a" * 200_000)
  assert reader.wait(timeout=20) == 0 and (tmp_path / "read").read_bytes() == b"a" * 200_000
  assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and left(tmp_path) == ["pipe", "read"]


def test_standard_output_stays_what_the_shell_opened(tmp_path):
  code = "from dpojax.files import write_atomically; print(1, flush=True); write_atomically('/dev/stdout', 'two\\n')"
  with open(tmp_path / "file", "a") as file:
    subprocess.run([sys.executable, "-c", code + "; print(3)"], cwd=ROOT, stdout=file, check=True)
  assert (tmp_path / "file").read_text() == "1\ntwo\n3\n"
  piped = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True)
  assert piped.stdout == b"1\ntwo\n" and left(tmp_path) == ["file"]


def test_sockets_and_disks_are_refused(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # a socket's name is short
  with socket.socket(socket.AF_UNIX) as one:
    one.bind("socket")
    with pytest.raises(OSError, match="it is a socket"), replacing("socket"):
      pytest.fail("the block began")
  with monkeypatch.context() as patch:
    patch.setattr(files.stat, "S_ISBLK", lambda mode: True)
    with pytest.raises(OSError, match="it is a disk"), replacing("socket"):
      pytest.fail("the block began")


def test_a_folder_appears_whole_where_a_link_leads_or_not_at_all(tmp_path):
  (tmp_path / "far").mkdir()
  (tmp_path / "near").symlink_to("far")
  with replacing_folder(tmp_path / "near") as part:
    (part / "a").write_text("1")
  assert (tmp_path / "near").is_symlink() and left(tmp_path / "far") == ["a"]
  with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "other") as part:
    (part / "a").write_text("1")
    raise KeyboardInterrupt
  assert left(tmp_path) == ["far", "near"]
  with pytest.raises(OSError, match="near"), replacing_folder(tmp_path / "near"):
    pass  # which holds something
  assert left(tmp_path / "far") == ["a"] and left(tmp_path) == ["far", "near"]
  with pytest.raises(NotADirectoryError):
    destination(tmp_path / "far/a", folder=True)


def test_who_ends_at_once_removes_what_is_not_in_place(tmp_path):
  code = f"""
import os
from dpojax.files import remove_unfinished, replacing, replacing_folder
with replacing({str(tmp_path / "file")!r}) as file, replacing_folder({str(tmp_path / "folder")!r}) as part:
  (part / "a").write_text("1"); file.write("2"); file.flush()
  assert len(os.listdir({str(tmp_path)!r})) == 2
  remove_unfinished()
  os._exit(75)
"""
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 75
  assert left(tmp_path) == []
  remove_unfinished()  # where there is nothing
