"""gguf's reader with arrays of metadata read at once instead of element by element.

A vocabulary and its merges are 10^5 strings. gguf 0.19 makes four memory maps for each of them: 4 s of processor
time for SmolLM2, of the 6 s that its weights take.
"""

import struct
from typing import Any

import gguf
import numpy as np

_LENGTH = struct.Struct("<Q")


class GgufReader(gguf.GGUFReader):
  """A `gguf.GGUFReader` whose fields have the same contents; an array of numbers is one part, not one a number."""

  def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
    if raw_type != gguf.GGUFValueType.ARRAY or self.byte_order != "I":
      return super()._get_field_parts(orig_offs, raw_type)
    kind, count = int(self._get(orig_offs, np.uint32)[0]), int(self._get(orig_offs + 4, np.uint64)[0])
    start, types = orig_offs + 12, [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(kind)]
    if kind == gguf.GGUFValueType.STRING:
      strings, end = _strings(np.asarray(self.data).data, start, count)
      return end - orig_offs, strings, list(range(count)), types
    number = self.gguf_scalar_to_np.get(types[1])
    if number is None:
      return super()._get_field_parts(orig_offs, raw_type)  # arrays of arrays, and what is unknown
    numbers = self._get(start, number, count)
    if len(numbers) != count:
      raise ValueError(f"an array of {count} numbers at byte {orig_offs} reaches beyond the end")
    return 12 + numbers.nbytes, [numbers], [0], types


def _strings(data: memoryview, start: int, count: int) -> tuple[list[memoryview], int]:
  """`count` strings, each behind its length, and where they end."""
  found = []
  for _ in range(count):
    (length,) = _LENGTH.unpack_from(data, start)
    start += _LENGTH.size
    if length > len(data) - start:
      raise ValueError(f"a string of {length} bytes at byte {start} reaches beyond the end")
    found.append(data[start : start + length])
    start += length
  return found, start
