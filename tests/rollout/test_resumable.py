"""Files made chunk by chunk: whatever a kill leaves behind, the next process ends with the same bytes."""

import errno
import json
import os

import pytest

from dpojax.errors import ConfigError
from dpojax.rollout.resumable import is_finished, part_path, provenance_path, write_resumably

JOB = {"weights": "a" * 64, "temperature": 1.0, "stop": ("x",)}
ROWS = [0, 1, 3, 4, 5, 8, 9]
AT_ONCE = 3


class Killed(BaseException):
  """Stands for a signal: nothing catches it."""


class Maker:
  """Makes lines; dies when it is asked for the chunk number `dies_at`. `made`: the places it made."""

  def __init__(self, dies_at=99):
    self.dies_at, self.made = dies_at, []

  def __call__(self, places):
    if len(self.made) == self.dies_at:
      raise Killed
    self.made.append((places.start, places.stop))
    return [{"row": ROWS[place], "text": f"é {place} in {places.start}-{places.stop}"} for place in places]


def write(path, maker, job=JOB, at_once=AT_ONCE):
  return write_resumably(path, job, ROWS, maker, at_once=at_once)


@pytest.fixture
def whole(tmp_path):
  """Bytes of a file that was left alone."""
  path = tmp_path / "whole.jsonl"
  assert write(path, Maker())
  return path.read_bytes()


def test_lines_are_those_that_were_made(whole, tmp_path):
  assert [json.loads(line)["row"] for line in whole.decode().splitlines()] == ROWS
  assert "é 4 in 3-6".encode() in whole
  assert sorted(file.name for file in tmp_path.iterdir()) == ["whole.jsonl", "whole.jsonl.provenance.json"]
  record = json.loads(provenance_path(tmp_path / "whole.jsonl").read_text())
  assert record["job"] == JOB | {"stop": ["x"]}


def test_whatever_a_kill_leaves_ends_in_the_same_bytes(whole, tmp_path):
  path = tmp_path / "file.jsonl"
  with pytest.raises(Killed):
    write(path, Maker(dies_at=2))
  assert not path.exists()
  left = part_path(path).read_bytes()
  header, lines = left.index(b"\n") + 1, [i + 1 for i, byte in enumerate(left) if byte == 10][1:]
  assert len(lines) == 6
  for length in range(0, len(left) + 1, 5):  # a write that got no further than this
    part_path(path).write_bytes(left[:length])
    maker = Maker()
    assert write(path, maker)
    assert path.read_bytes() == whole
    kept = 0 if length < header else sum(end <= length for end in lines) // AT_ONCE * AT_ONCE
    assert maker.made[0][0] == kept  # no whole chunk is made again, no torn one is kept
    path.unlink()


@pytest.mark.parametrize("damage", [b"\0" * 200, b'{"row": 7}\n{"row": 8}\n', b"not json\n" * 9])
def test_damaged_lines_are_made_again(whole, tmp_path, damage):
  path = tmp_path / "file.jsonl"
  with pytest.raises(Killed):
    write(path, Maker(dies_at=1))
  with part_path(path).open("ab") as part:
    part.write(damage)
  maker = Maker()
  write(path, maker)
  assert path.read_bytes() == whole and maker.made[0][0] == 3


def test_chunks_keep_the_boundaries_that_they_began_with(whole, tmp_path):
  path = tmp_path / "file.jsonl"
  with pytest.raises(Killed):
    write(path, Maker(dies_at=1))
  write(path, Maker(), at_once=4)
  assert path.read_bytes() == whole


def test_killed_while_it_is_put_in_place(whole, tmp_path, monkeypatch):
  """Before or after each rename: of the provenance, then of the file."""
  for number in range(4):
    path, calls, rename = tmp_path / f"{number}.jsonl", [], os.replace

    def dying(old, new, number=number, calls=calls, rename=rename):
      calls.append(new)
      if number % 2:
        rename(old, new)
      if len(calls) == number // 2 + 1:
        raise Killed
      if not number % 2:
        rename(old, new)

    monkeypatch.setattr("os.replace", dying)
    with pytest.raises(Killed):
      write(path, Maker())
    monkeypatch.undo()
    maker = Maker()
    assert write(path, maker) == (number < 3)
    assert not maker.made and path.read_bytes() == whole
    assert is_finished(path, JOB) and not part_path(path).exists()


def test_a_finished_file_is_left_alone_and_another_is_replaced(whole, tmp_path):
  path, maker = tmp_path / "whole.jsonl", Maker()
  assert not write(path, maker) and not maker.made
  path.write_bytes(whole + b"edited\n")
  assert write(path, maker) and path.read_bytes() == whole
  assert not is_finished(path, JOB | {"temperature": 0.5})
  assert write(path, Maker(), JOB | {"temperature": 0.5})
  assert is_finished(path, JOB | {"temperature": 0.5}) and not is_finished(path, JOB)


def test_an_unfinished_file_of_another_job_is_refused(tmp_path):
  path = tmp_path / "file.jsonl"
  with pytest.raises(Killed):
    write(path, Maker(dies_at=1))
  left = part_path(path).read_bytes()
  changed = r"file.jsonl.part is the unfinished file of another job \(weights: aaaaaaaa... -> bbbbbbbb...; temp"
  with pytest.raises(ConfigError, match=changed + r"erature: 1.0 -> 0.5\); delete it, or name another --out"):
    write(path, Maker(), JOB | {"weights": "b" * 64, "temperature": 0.5})
  assert part_path(path).read_bytes() == left
  part_path(path).write_text('{"row": 0}\n')
  with pytest.raises(ConfigError, match=r"file.jsonl.part is no unfinished file of this command; move it away"):
    write(path, Maker())
  assert part_path(path).read_text() == '{"row": 0}\n'


def test_places_that_cannot_be_written_are_named_before_anything_is_made(tmp_path):
  maker = Maker()
  with pytest.raises(ConfigError, match=r"--out=.*nowhere/x.jsonl: No such file or directory; name a file in an exist"):
    write(tmp_path / "nowhere" / "x.jsonl", maker)
  with pytest.raises(ConfigError, match=r"--out=.*: it is a folder; name a file in it"):
    write(tmp_path, maker)
  assert not maker.made and not list(tmp_path.iterdir())


def test_a_full_disk_loses_nothing(whole, tmp_path, monkeypatch):
  path, maker = tmp_path / "file.jsonl", Maker()

  def full(descriptor):
    if len(maker.made) == 2:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(ConfigError, match=r"No space left on device; what is done is in .*file.jsonl.part: make room"):
    write(path, maker)
  monkeypatch.undo()
  write(path, Maker())
  assert path.read_bytes() == whole


def test_two_processes_do_not_write_one_file(tmp_path):
  path = tmp_path / "file.jsonl"

  def second(places):
    with pytest.raises(ConfigError, match=r"another process is writing it; wait for it, or name another"):
      write(path, Maker())
    return Maker()(places)

  assert write(path, second)
