"""One input of the fuzz test: files in a folder, and the command that reads them."""

import base64
import dataclasses
import json
import pathlib
import shutil

MISSING, FOLDER, LOOP = "missing", "folder", "loop"  # in the place of a file's content


@dataclasses.dataclass(frozen=True)
class Case:
  """An input.

  Attributes:
    domain: what it is an input of.
    kind: what was done to a valid one.
    command: words of the command line after `dpojax`, or "python", the name of a door of `runner.DOORS`, its arguments.
    files: path in the folder that the command runs in -> content, or MISSING, FOLDER or LOOP.
    seeds: names of `seeds.SEEDS` that lie in that folder.
  """

  domain: str
  kind: str
  command: list[str]
  files: dict[str, bytes | str] = dataclasses.field(default_factory=dict)
  seeds: tuple[str, ...] = ()

  def lay_out(self, folder: pathlib.Path, seeds: pathlib.Path) -> None:
    """Makes the folder that the command runs in."""
    folder.mkdir(parents=True)
    for name in self.seeds:
      shutil.copytree(seeds / name, folder / name)
    for name, content in self.files.items():
      path = folder / name
      if path.is_dir():
        shutil.rmtree(path)
      path.unlink(missing_ok=True)
      path.parent.mkdir(parents=True, exist_ok=True)
      if isinstance(content, bytes):
        path.write_bytes(content)
      elif content == FOLDER:
        path.mkdir()
      elif content == LOOP:
        path.symlink_to(path.name)

  def to_json(self) -> str:
    files = {
      name: content
      if isinstance(content, str)
      else {"text": content.decode()}
      if _is_text(content)
      else _coded(content)
      for name, content in self.files.items()
    }
    return json.dumps(dataclasses.asdict(self) | {"files": files}, indent=1) + "\n"

  @classmethod
  def from_json(cls, text: str) -> "Case":
    value = json.loads(text)
    files = {
      name: content if isinstance(content, str) else _content(content) for name, content in value.pop("files").items()
    }
    return cls(**value | {"files": files, "seeds": tuple(value["seeds"])})


def _is_text(content: bytes) -> bool:
  try:
    return len(content.decode()) < 3000
  except UnicodeDecodeError:
    return False


def _coded(content: bytes) -> dict[str, str]:
  import zlib

  return {"zlib": base64.b64encode(zlib.compress(content, 9)).decode()}


def _content(coded: dict[str, str]) -> bytes:
  import zlib

  return coded["text"].encode() if "text" in coded else zlib.decompress(base64.b64decode(coded["zlib"]))
