"""digests.json: every change of a listed file is found, nothing else is, and a kill at any moment leaves nothing that looks damaged."""

import contextlib
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax import digests, files
from dpojax.errors import CheckpointError


def test_sizes_and_digests_are_those_that_sha256sum_says(tmp_path):
  digests.write(tmp_path, "sub/a.bin", b"\x00\xff" * 9)
  digests.write_json(tmp_path, "b.json", {"x": 1.5})
  (tmp_path / "c").write_text("c")
  digests.list_files(tmp_path, ["c"])
  listed = json.loads((tmp_path / "digests.json").read_text())["files"]
  for name in ("sub/a.bin", "b.json", "c"):
    said = subprocess.run(["sha256sum", tmp_path / name], capture_output=True, text=True, check=True).stdout
    assert listed[name] == {"bytes": (tmp_path / name).stat().st_size, "sha256": said.split()[0]}
  assert len(listed) == 3 and not digests.damage(tmp_path)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_any_change_of_a_listed_file_is_found_and_named(tmp_path_factory, content, data):
  folder = tmp_path_factory.mktemp("changed")
  digests.write(folder, "a", content)
  digests.write(folder, "b", b"b")
  other = data.draw(st.binary(max_size=60))
  (folder / "a").write_bytes(other)
  said = digests.damage(folder)
  assert (f"{folder / 'a'}: damaged or changed" in said) == (other != content)
  assert digests.read(folder, "b") == b"b"
  with pytest.raises(FileNotFoundError):
    digests.read(folder, "of nobody")


def test_what_is_not_listed_is_not_checked(tmp_path):
  (tmp_path / "a").write_text("a")
  assert not digests.damage(tmp_path) and not digests.damage(tmp_path, ["a", "b"])
  digests.write(tmp_path, "b", "b")
  (tmp_path / "a").write_text("other")
  assert not digests.damage(tmp_path)


def test_a_file_that_is_gone_is_named_and_deleting_the_list_ends_the_checks(tmp_path):
  digests.write(tmp_path, "a", "a")
  (tmp_path / "a").unlink()
  with pytest.raises(CheckpointError, match=r"a: it is gone, .*delete .*digests\.json"):
    digests.read(tmp_path, "a")
  (tmp_path / "digests.json").unlink()
  with pytest.raises(FileNotFoundError):
    digests.read(tmp_path, "a")


def test_every_change_of_the_list_itself_is_found(tmp_path):
  digests.write(tmp_path, "a", "content")
  path = tmp_path / "digests.json"
  whole = path.read_bytes()
  for place in range(len(whole)):
    for changed in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
      path.write_bytes(changed)
      with pytest.raises(CheckpointError, match=r"digests\.json: damaged .* or delete it"):
        digests.damage(tmp_path)


def test_a_file_that_grows_is_checked_as_far_as_it_was_known(tmp_path):
  digests.write(tmp_path, "a", "one\n", grows=True)
  with open(tmp_path / "a", "a") as file:
    file.write("two\n")
  assert not digests.damage(tmp_path)
  digests.list_grown(tmp_path, ["a"])
  for changed in ("one\n", "one\ntwa\n", "one\ntwa\nthree\n"):
    (tmp_path / "a").write_text(changed)
    assert "damaged or changed" in digests.damage(tmp_path)


def killed_after(last, monkeypatch):
  """Lets a process write `last` files and then be killed; returns the list of what it has written."""
  writes = []

  def killed(path, *rest, **options):
    if len(writes) == last:
      raise KeyboardInterrupt
    writes.append(path)
    files.write_atomically(path, *rest, **options)

  monkeypatch.setattr(digests, "write_atomically", killed)
  return writes


@pytest.mark.parametrize("last", range(3))
def test_a_kill_while_a_file_is_first_written_leaves_nothing_that_looks_gone(tmp_path, monkeypatch, last):
  writes = killed_after(last, monkeypatch)
  with pytest.raises(KeyboardInterrupt) if last < 2 else contextlib.nullcontext():
    digests.write(tmp_path, "a", "new")
  assert len(writes) == last and not digests.damage(tmp_path)


@pytest.mark.parametrize("last", range(4))
def test_a_kill_while_a_file_is_replaced_leaves_nothing_that_looks_damaged(tmp_path, monkeypatch, last):
  digests.write(tmp_path, "a", "old")
  writes = killed_after(last, monkeypatch)
  # The list with both, the file, the list with the new one.
  with pytest.raises(KeyboardInterrupt) if last < 3 else contextlib.nullcontext():
    digests.write(tmp_path, "a", "new")
  assert len(writes) == last and not digests.damage(tmp_path)
  if last == 3:
    (tmp_path / "a").write_text("old")
    assert digests.damage(tmp_path)
