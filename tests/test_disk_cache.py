"""What one process keeps for the next: found again whole, or not at all; no damage or full disk stops anything."""

import os
import subprocess
import sys

import pytest

from dpojax.disk_cache import DiskCache
from dpojax.files import PART

ENTRY, LIMIT = ".entry", 10_000


def say(message):
  print(message, file=sys.stderr)


def cache_in(folder, most_bytes=LIMIT):
  return DiskCache(folder, ENTRY, most_bytes, what="program", made="compiled", say=say)


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / "root" / "here"
  made.mkdir(parents=True)
  return made


@pytest.fixture
def cache(folder):
  return cache_in(folder)


def entries(root):
  return sorted(root.rglob(f"*{ENTRY}"))


def test_what_is_kept_is_found_again(cache, folder):
  assert cache.get("f") is None
  cache.put("f", b"program")
  assert cache_in(folder).get("f") == b"program"
  assert [file.name for file in folder.iterdir()] == ["f" + ENTRY]


@pytest.mark.parametrize("place", [0, 31, 32, 36, -1])
def test_a_flipped_bit_removes_the_entry_and_it_is_kept_anew(cache, folder, capsys, place):
  cache.put("f", b"program")
  (file,) = entries(folder)
  data = bytearray(file.read_bytes())
  data[place] ^= 4
  file.write_bytes(data)
  assert cache.get("f") is None and cache.get("f") is None and entries(folder) == []
  assert capsys.readouterr().err.count("\n") == 1
  cache.put("f", b"program")
  assert cache.get("f") == b"program"


@pytest.mark.parametrize("length", [0, 20, 32, 38])
def test_a_truncated_entry_is_damaged(cache, folder, length):
  cache.put("f", b"program")
  os.truncate(entries(folder)[0], length)
  assert cache.get("f") is None


def test_an_entry_under_another_name_is_damaged(cache, folder):
  cache.put("f", b"program")
  os.rename(entries(folder)[0], folder / f"g{ENTRY}")
  assert cache.get("g") is None


def test_the_least_recently_used_go_first_and_old_parts_with_them(cache, folder):
  other = folder.parent / "other_version"
  other.mkdir()
  for age, (where, name) in enumerate([(folder, "a"), (other, "b"), (folder, "c"), (folder, "d")]):
    cache_in(where).put(name, bytes(2968))  # 3,000 bytes with the digest
    os.utime(where / (name + ENTRY), (1000 + age, 1000 + age))
  assert [file.stem for file in entries(folder.parent)] == ["c", "d", "b"]
  assert cache.get("c") is not None  # used now
  for name in ("new", "old"):
    (folder / (f".{name}{PART}")).touch()
  os.utime(folder / f".old{PART}", (1000, 1000))
  cache.put("e", bytes(5968))
  assert [file.stem for file in entries(folder.parent)] == ["c", "e"]
  assert [file.name for file in folder.glob(f"*{PART}")] == [".new" + PART]


def test_what_exceeds_the_limit_alone_displaces_nothing(cache, folder):
  cache.put("a", b"program")
  cache.put("b", bytes(LIMIT))
  assert [file.stem for file in entries(folder)] == ["a"]


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
    cache = cache_in(folder, 2**20)
    cache.put("small", b"program")
    cache.put("large", bytes(100_000))
    cache.put("later", b"program")
    assert [file.name for file in folder.iterdir()] == ["small" + ENTRY]
    assert cache.get("small") == b"program"
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device; programs of this run are not kept" in error
  finally:
    subprocess.run(["umount", tmp_path / "disk"], check=True)
