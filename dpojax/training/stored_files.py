"""Files that a run reads back: small ones of JSON with a digest of what they hold, and what stands where they should be."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dpojax.errors import CheckpointError
from dpojax.files import json_text, parse_json, write_json

NO_FOLDER = "{}: it is a file, but the run keeps a folder of that name; move it away"
MEASURED_ANEW = "delete it, and the run measures it anew"  # advice on gains and biases of rewards


def save_json(path: pathlib.Path, facts: Mapping[str, Any]) -> None:
  """Writes facts and their digest, whole or not at all, durably.

  Raises:
    CheckpointError: there is a file where the folder should be.
  """
  make_folder(path.parent)
  facts = json.loads(json_text(facts))  # as they will be read
  write_json(path, {"digest": digest_of_json(facts), **facts}, durable=True)


def read_json(path: pathlib.Path, advice: str) -> dict[str, Any] | None:
  """The facts as they were saved; None where there is no file.

  Args:
    advice: what to do where the file is damaged.

  Raises:
    CheckpointError: it is damaged, or cannot be read.
  """
  text = read_stored(path, advice)
  if text is None:
    return None
  try:
    facts = parse_json(text.decode())
    if not isinstance(facts, dict) or facts.pop("digest") != digest_of_json(facts):
      raise ValueError("its contents are not those that were written")
  except (ValueError, KeyError, RecursionError) as error:
    raise CheckpointError(f"{path}: damaged ({error}); {advice}") from None
  return facts


def digest_of_json(facts: Mapping[str, Any]) -> str:
  """sha256 of facts in JSON's types."""
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_stored(path: pathlib.Path, advice: str) -> bytes | None:
  """What a file holds; None where there is none.

  Raises:
    CheckpointError: it cannot be read, which `advice` mends; or its folder is a file.
  """
  try:
    return path.read_bytes()
  except FileNotFoundError:
    return None
  except NotADirectoryError:
    raise CheckpointError(NO_FOLDER.format(path.parent)) from None
  except IsADirectoryError:
    raise CheckpointError(f"{path}: it is a folder, but the run keeps a file of that name; {advice}") from None
  except OSError as error:
    raise CheckpointError(f"{path}: {error.strerror}; make it readable, or {advice}") from None


def make_folder(path: pathlib.Path) -> None:
  """Makes a folder where there is none; CheckpointError where a file has its name."""
  try:
    path.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise CheckpointError(NO_FOLDER.format(path)) from None
