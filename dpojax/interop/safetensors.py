"""Weights in safetensors files: one file, or shards with an index."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dpojax.errors import WeightsError
from dpojax.files import replacing_path, write_json
from dpojax.interop.finite import check_finite
from dpojax.interop.json_object import read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class SafetensorsFiles(Mapping[str, np.ndarray]):
  """The tensors of a set of files by name, each read when asked for.

  Raises:
    WeightsError: a file is missing, truncated or not safetensors, or a tensor that is asked for is not finite; the
      message names it.
  """

  def __init__(self, file_of: Mapping[str, Path]):
    """
    Args:
      file_of: tensor name -> file that holds it.
    """
    self._file_of = dict(file_of)
    self._open = {path: _open(path) for path in sorted(set(self._file_of.values()))}
    for name, path in self._file_of.items():
      if name not in self._open[path].keys():  # noqa: SIM118 (not a mapping)
        raise WeightsError(f"{path}: tensor {name} is missing, though {INDEX} places it there")

  def __getitem__(self, name: str) -> np.ndarray:
    path = self._file_of[name]
    with _errors(path):
      value = self._open[path].get_tensor(name)
    check_finite(value, name, path)
    return value

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape of a tensor, which is not read."""
    path = self._file_of[name]
    with _errors(path):
      return tuple(self._open[path].get_slice(name).get_shape())

  def __contains__(self, name: object) -> bool:
    return name in self._file_of  # a Mapping's own would read the tensor to see

  def __iter__(self) -> Iterator[str]:
    return iter(self._file_of)

  def __len__(self) -> int:
    return len(self._file_of)


def open_safetensors(folder: Path) -> SafetensorsFiles:
  """The tensors of a model folder: `model.safetensors`, or the shards of `model.safetensors.index.json`.

  Where both are there the single file is read, as transformers does, and a warning says so unless the index names it.

  Raises:
    WeightsError: neither file is there; the index is damaged or points out of the folder; a shard is
      missing or damaged.
  """
  single = folder / SINGLE
  if (folder / INDEX).is_file():
    file_of = _read_index(folder)
    if not single.is_file() or single in file_of.values():
      return SafetensorsFiles(file_of)
    warnings.warn(
      f"{folder}: has {SINGLE} and beside it {INDEX} of other files; {SINGLE} is read, as transformers does: delete the one "
      "that is not meant",
      stacklevel=2,
    )
  if not single.is_file():
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    hint = f"; {pickled[0]} is a pickle, which is not read: save the model as safetensors" if pickled else ""
    raise WeightsError(f"{folder}: holds neither {SINGLE} nor {INDEX}{hint}")
  return SafetensorsFiles({name: single for name in _open(single).keys()})  # noqa: SIM118 (not a mapping)


def save_safetensors(folder: Path, tensors: Mapping[str, np.ndarray], *, max_shard_bytes: int) -> None:
  """Writes `model.safetensors`, or shards of at most `max_shard_bytes` (a larger tensor alone) and their index."""
  plan = split_state_dict_into_shards_factory(
    dict(tensors),
    get_storage_size=lambda x: x.nbytes,
    filename_pattern="model{suffix}.safetensors",
    max_shard_size=max_shard_bytes,
  )
  for file, names in plan.filename_to_tensors.items():
    # The format stores C order and `save_file` does not look; transformers asks for the "pt" mark.
    some = {name: np.ascontiguousarray(tensors[name]) for name in names}
    with replacing_path(folder / file) as part:
      save_file(some, part, metadata={"format": "pt"})
  if plan.is_sharded:
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    write_json(folder / INDEX, index, sort_keys=True)


def _read_index(folder: Path) -> dict[str, Path]:
  """Tensor name -> file, every file checked to lie in the folder."""
  path = folder / INDEX
  names = read_object(path).get("weight_map")
  if not isinstance(names, dict) or not names:
    raise WeightsError(f"{path}: has no weight_map, an object of tensor names and files")
  return {str(tensor): _inside(folder, file, path) for tensor, file in names.items()}


def _inside(folder: Path, file: Any, index: Path) -> Path:
  """A file of the index, refused if its path or what it links to leaves the folder."""
  parts = PureWindowsPath(file).parts if isinstance(file, str) else ()  # knows both kinds of separator
  if not parts or ".." in parts or PurePosixPath(file).is_absolute() or PureWindowsPath(file).anchor:
    raise WeightsError(f"{index}: weight_map names {file!r}; it must be a file inside the folder")
  path = folder / file
  roots = [folder.resolve()]
  if folder.absolute().parent.name == "snapshots":  # the hub's cache links every file to ../../blobs
    roots.append(folder.absolute().parent.parent.resolve() / "blobs")
  if not any(
    Path(os.path.realpath(path)).is_relative_to(root) for root in roots
  ):  # `resolve` raises where links go round
    raise WeightsError(f"{index}: weight_map names {file!r}, a link out of the folder; put the file itself there")
  if not os.path.isfile(path):  # unlike `is_file`, false of a name that is too long
    raise WeightsError(f"{path}: no such file, though {INDEX} names it")
  return path


def _open(path: Path) -> Any:
  with _errors(path):
    return safe_open(path, framework="numpy")


@contextlib.contextmanager
def _errors(path: Path):
  """Whatever the library raises about a damaged file, as one error that names it."""
  try:
    yield
  except (SafetensorError, OSError, TypeError, ValueError) as error:
    raise WeightsError(f"{path}: damaged, truncated or not safetensors: {error}") from error
