"""JSON objects of a model's folder, and the typed reading of their values: whatever a stranger's file holds is an error, not a crash."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpojax.errors import WeightsError
from dpojax.files import parse_json

MOST = 2**31 - 1  # of sizes, positions and ids, which are int32


def read_object(path: Path, *, absent: dict[str, Any] | None = None) -> dict[str, Any]:
  """The JSON object in a file, UTF-8 with or without a byte order mark; `absent` where there is no such file.

  Raises:
    WeightsError: it is no file, not JSON, or holds something else than an object.
  """
  if absent is not None and not os.path.lexists(path):  # a folder or a broken link of that name is an error
    return absent
  try:
    value = parse_json(path.read_text(encoding="utf-8-sig"))
  except (OSError, ValueError) as error:  # not UTF-8, not JSON, or nested too deeply
    raise WeightsError(f"{path}: not JSON: {error}") from error
  if not isinstance(value, dict):
    raise WeightsError(f"{path}: holds a {type(value).__name__}; it must be a JSON object")
  return value


def integer(
  config: Mapping[str, Any], key: str, default: int | None = None, *, least: int = 1, where: str = "config.json: "
) -> int:
  """A whole number of at least `least` and at most 2^31 - 1; WeightsError, naming the key, otherwise."""
  value = config.get(key)
  value = default if value is None else value
  if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
    raise WeightsError(f"{where}{key} is {_shown(value)}; it must be a whole number from {least} to 2^31 - 1")
  return value


def number(
  config: Mapping[str, Any], key: str, default: float | None = None, *, most: float = 1e30, where: str = "config.json: "
) -> float:
  """A number above 0 and at most `most`; WeightsError, naming the key, otherwise."""
  value = config.get(key)
  value = default if value is None else value
  if (
    isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most or not math.isfinite(value)
  ):
    raise WeightsError(f"{where}{key} is {_shown(value)}; it must be a number above 0 and at most {most:g}")
  return float(value)


def boolean(config: Mapping[str, Any], key: str, default: bool, *, where: str = "config.json: ") -> bool:
  """True or false; WeightsError, naming the key, otherwise: the text "false" would count as true."""
  value = config.get(key)
  value = default if value is None else value
  if not isinstance(value, bool):
    raise WeightsError(f"{where}{key} is {_shown(value)}; it must be true or false")
  return value


def token_id(config: Mapping[str, Any], key: str, default: int | None, *, where: str = "config.json: ") -> int | None:
  """An id or None; WeightsError, naming the key, otherwise. An absent key means `default`; null, and -1 as published, None."""
  value = config.get(key, default)
  return None if value is None or value == -1 else integer({key: value}, key, least=0, where=where)


def token_ids(
  config: Mapping[str, Any], key: str, default: int | None, *, where: str = "config.json: "
) -> tuple[int, ...]:
  """Ids given as one, as a list or as null; WeightsError, naming the key, for anything else."""
  value = config.get(key, default)
  several = [] if value is None else value if isinstance(value, list) else [value]
  return tuple(integer({f"{key}[{i}]": one}, f"{key}[{i}]", least=0, where=where) for i, one in enumerate(several))


def _shown(value: Any) -> str:
  if value is None:
    return "missing"
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:77]}..."
