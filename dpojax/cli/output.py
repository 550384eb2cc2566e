"""Files that an option names and a command writes when all is done."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from dpojax.errors import ConfigError
from dpojax.files import is_written_into, replacing_path

MODEL_SUFFIXES = (".json", ".safetensors", ".gguf", ".jinja", ".model")


@contextlib.contextmanager
def output_path(path: str, option: str) -> Iterator[pathlib.Path]:
  """`files.replacing_path`: whether `option`=`path` can be written is known before anything is computed.

  Raises:
    ConfigError: it cannot be.
  """
  with contextlib.ExitStack() as stack:
    try:
      part = stack.enter_context(replacing_path(path))
    except OSError as error:
      raise ConfigError(f"{option}={path}: {error.strerror}; name a file in an existing, writable folder") from None
    yield part


def check_replaceable(path: str, option: str) -> None:
  """Raises ConfigError where `option`=`path` is a device or a FIFO, but the command reads the file again and goes on with it."""
  try:
    special = is_written_into(path)
  except OSError as error:
    raise ConfigError(f"{option}={path}: {error.strerror}; name a file") from None
  if special:
    raise ConfigError(f"{option}={path}: it is a device or a FIFO, and answers are read again; name a file")


def check_not_read(path: str | None, option: str, read: str | None, reading: str) -> None:
  """Raises ConfigError where `option`=`path` would replace the file `read` that `reading` names, or one of the model in that
  folder."""
  if path and read and _is_of_model(pathlib.Path(path), pathlib.Path(read)):
    raise ConfigError(
      f"{option}={path} is a file of the model that {reading} reads, and would replace it; name another file"
    )
  if path and read and pathlib.Path(read).exists() and pathlib.Path(path).exists() and os.path.samefile(path, read):
    raise ConfigError(f"{option}={path} is the file that {reading} reads, and would replace it; name another file")


def _is_of_model(path: pathlib.Path, folder: pathlib.Path) -> bool:
  return (
    folder.is_dir()
    and path.is_file()
    and path.suffix in MODEL_SUFFIXES
    and path.resolve().parent.is_relative_to(folder.resolve())
  )


def not_finite(count: int, path: str | None) -> str:
  """What a command says of figures that are NaN or infinite, which JSON does not have."""
  figures = "1 figure is" if count == 1 else f"{count:,} figures are"
  return f"{figures} not finite{f', null in {path}' if path else ''}; look at the data and the model"
