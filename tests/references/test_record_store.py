"""Records on disk survive torn tails, flipped bits and two writers."""

import hashlib

import numpy as np
import pytest

from dpojax.references.record_store import SUFFIX, RecordStore, decode, encode, split_blocks


def record(i: int) -> tuple[bytes, np.ndarray]:
  return hashlib.sha256(bytes([i])).digest(), -np.arange(i % 3 + 1, dtype=np.float32) - i


def add(store, *numbers):
  store.append(*zip(*(record(i) for i in numbers), strict=True))


def held(store) -> set[int]:
  """Numbers of the records in the store, each checked bit for bit."""
  found = set()
  for i in range(100):
    digest, vector = record(i)
    if digest in store.places:
      start, length = store.places[digest]
      assert store.values[start : start + length].tobytes() == vector.tobytes()
      found.add(i)
  assert len(found) == len(store.places)
  return found


def opened(folder, warnings=None, **options):
  return RecordStore(folder, pytest.fail if warnings is None else warnings.append, **options)


def shard(folder):
  (path,) = folder.glob("*" + SUFFIX)
  return path


@pytest.fixture
def filled(tmp_path):
  store = opened(tmp_path)
  add(store, 1, 2, 3)
  add(store, 4)
  add(store, 5, 6)
  assert held(store) == {1, 2, 3, 4, 5, 6}
  return tmp_path


def test_records_come_back(filled):
  assert held(opened(filled)) == {1, 2, 3, 4, 5, 6}


def test_a_block_round_trips():
  digests, vectors = zip(record(7), record(8), strict=True)
  lengths = np.asarray([len(v) for v in vectors], "<u4")
  back = decode(encode(digests, lengths, np.concatenate(vectors)))
  assert back[0] == list(digests) and (back[1] == lengths).all() and (back[2] == np.concatenate(vectors)).all()


def test_a_tail_torn_at_any_byte_drops_the_last_block_only(filled):
  path = shard(filled)
  data = path.read_bytes()
  blocks, sound = split_blocks(data)
  assert sound and b"".join(blocks) == data
  for cut in range(len(data) - len(blocks[2]), len(data)):
    path.write_bytes(data[:cut])
    assert held(opened(filled)) == {1, 2, 3, 4}
  path.write_bytes(data[: len(blocks[0]) + 5])
  store = opened(filled)
  add(store, 4, 5, 6)  # into a shard of its own
  assert held(opened(filled)) == {1, 2, 3, 4, 5, 6}


def test_any_flipped_byte_is_named_and_mended(filled):
  path = shard(filled)
  data = path.read_bytes()
  first, second = (len(block) for block in split_blocks(data)[0][:2])
  for at in range(len(data)):
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
    warnings = []
    found = held(opened(filled, warnings))
    lost = {1, 2, 3} if at < first else {4} if at < first + second else {5, 6}
    assert not found & lost
    assert len(warnings) == 1 and str(path) in warnings[0]
    assert held(opened(filled)) == found  # mended: no warning the second time
    if at < first:
      assert found in ({4, 5, 6}, set())  # behind a damaged header nothing can be found


def test_two_writers_do_not_disturb_each_other(tmp_path):
  one, two = opened(tmp_path), opened(tmp_path)
  add(one, 1)
  add(two, 2)
  add(one, 3)
  add(two, 3)
  assert held(one) == {1, 3} and held(two) == {2, 3}
  assert held(opened(tmp_path)) == {1, 2, 3}


def test_not_writable_touches_nothing(filled):
  path = shard(filled)
  path.write_bytes(path.read_bytes()[:-1] + b"\x00")
  before = path.read_bytes()
  warnings = []
  store = opened(filled, warnings, writable=False)
  add(store, 9)
  assert held(store) == {1, 2, 3, 4, 9} and len(warnings) == 1
  assert shard(filled).read_bytes() == before
  assert held(opened(filled / "none", writable=False)) == set() and not (filled / "none").exists()


def test_a_file_of_another_owner_is_damage(tmp_path):
  add(opened(tmp_path / "a", owner="a"), 1)
  place = tmp_path / "b" / shard(tmp_path / "a").name
  place.parent.mkdir()
  place.write_bytes(shard(tmp_path / "a").read_bytes())
  said = []
  assert not opened(tmp_path / "b", said, owner="b").places
  assert len(said) == 1 and f"{place}: damaged" in said[0]
  assert held(opened(tmp_path / "a", owner="a")) == {1}
