"""Append-only records on disk, safe against kill -9, flipped bits and two writers at once.

A store is a folder of shards. Each writer appends to a shard of its own, so writers need no lock; all
of them read all shards. A shard is a sequence of blocks, one `append` each::

  magic 8 bytes | records u32 | values u64 | crc32 of these | sha256 of owner and body | body
  body = digest 32 bytes, each record | length u32, each record | values f32

A block is there as a whole or not at all: a torn last one, or one that another process is writing
right now, is passed over; one with flipped bits, or of another store, is dropped with a warning that names the file.
"""

import hashlib
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dpojax.files import append_whole, write_atomically

MAGIC = b"dpojaxR2"
COUNTS = struct.Struct("<8sIQ")
CHECKS = struct.Struct("<I32s")
HEADER_BYTES = COUNTS.size + CHECKS.size
DIGEST_BYTES = 32
SUFFIX = ".records"


class RecordStore:
  """digest (32 bytes) -> f32 vector, in memory and on disk.

  Args:
    folder: made if missing.
    warn: called with the text of each warning.
    writable: False: what is appended stays in memory, and nothing on disk is touched.
    owner: what the values belong to, such as the model that they are of; blocks of another owner count as damaged.

  Attributes:
    places: digest -> (start, length) in `values`.
  """

  def __init__(self, folder: Path, warn: Callable[[str], None], *, writable: bool = True, owner: str = ""):
    self.folder = folder
    self._owner = owner
    self.places: dict[bytes, tuple[int, int]] = {}
    self._pieces: list[np.ndarray] = [np.zeros(0, np.float32)]
    self._total = 0
    self._writable = writable
    self._shard = folder / f"{secrets.token_hex(8)}{SUFFIX}"
    if writable:
      folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*" + SUFFIX)):
      self._load(path, warn)

  @property
  def values(self) -> np.ndarray:
    """f32[total]: all vectors, one after another."""
    if len(self._pieces) > 1:
      self._pieces = [np.concatenate(self._pieces)]
    return self._pieces[0]

  def append(self, digests: Sequence[bytes], vectors: Sequence[np.ndarray]) -> None:
    """Adds records, all of them or none; they are on disk when this returns."""
    lengths = np.asarray([len(vector) for vector in vectors], "<u4")
    values = np.concatenate(vectors).astype("<f4", copy=False)
    if self._writable:
      with open(self._shard, "ab", buffering=0) as file:
        append_whole(file, encode(digests, lengths, values, self._owner), self._shard)
        os.fsync(file.fileno())
    self._add(digests, lengths, values)

  def _add(self, digests: Sequence[bytes], lengths: np.ndarray, values: np.ndarray) -> None:
    start = self._total
    for digest, length in zip(digests, lengths.tolist(), strict=True):
      self.places.setdefault(digest, (start, length))  # of two writers of a record the first counts
      start += length
    self._pieces.append(values)
    self._total = start

  def _load(self, path: Path, warn: Callable[[str], None]) -> None:
    blocks, sound = split_blocks(path.read_bytes(), self._owner)
    for block in blocks:
      self._add(*decode(block))
    if sound:
      return
    warn(f"{path}: damaged; its {len(blocks)} sound blocks are kept, the other log-probs are computed again")
    if self._writable:
      write_atomically(path, b"".join(blocks), durable=True)


def encode(digests: Sequence[bytes], lengths: np.ndarray, values: np.ndarray, owner: str = "") -> bytes:
  """One block."""
  body = b"".join(digests) + lengths.tobytes() + values.tobytes()
  counts = COUNTS.pack(MAGIC, len(digests), len(values))
  return counts + CHECKS.pack(zlib.crc32(counts), _digest(owner, body)) + body


def decode(block: bytes) -> tuple[list[bytes], np.ndarray, np.ndarray]:
  """(digests, lengths, values) of a sound block."""
  _, records, values = COUNTS.unpack_from(block)
  at = HEADER_BYTES + records * DIGEST_BYTES
  digests = [block[i : i + DIGEST_BYTES] for i in range(HEADER_BYTES, at, DIGEST_BYTES)]
  lengths = np.frombuffer(block, "<u4", records, at)
  return digests, lengths, np.frombuffer(block, "<f4", values, at + lengths.nbytes)


def _digest(owner: str, body: bytes) -> bytes:
  return hashlib.sha256(hashlib.sha256(owner.encode()).digest() + body).digest()


def split_blocks(data: bytes, owner: str = "") -> tuple[list[bytes], bool]:
  """(sound blocks, whether there was no damaged one). What follows a damaged header is lost with it."""
  blocks: list[bytes] = []
  sound = True
  at = 0
  while at + HEADER_BYTES <= len(data):
    magic, records, values = COUNTS.unpack_from(data, at)
    crc, digest = CHECKS.unpack_from(data, at + COUNTS.size)
    if magic != MAGIC or crc != zlib.crc32(data[at : at + COUNTS.size]):
      return blocks, False
    end = at + HEADER_BYTES + records * (DIGEST_BYTES + 4) + values * 4
    if end > len(data):
      break  # torn
    if _digest(owner, data[at + HEADER_BYTES : end]) == digest:
      blocks.append(data[at:end])
    else:
      sound = False
    at = end
  return blocks, sound
