"""Counting equal codes."""

from typing import Any

import numpy as np


def count_equal(code: np.ndarray, *values: np.ndarray | None) -> tuple[Any, ...]:
  """(distinct codes, i64 how often each came, sums over it of each of `values`, which may be None)."""
  if all(value is None for value in values):
    code = np.sort(code)  # three times as quick as finding the order
    order = None
  else:
    order = np.argsort(code, kind="stable")
    code = code[order]
  starts = np.append(0, np.flatnonzero(np.diff(code)) + 1)
  sums = [None if value is None else np.add.reduceat(value[order], starts) for value in values]
  return code[starts], np.diff(starts, append=len(code)), *sums
