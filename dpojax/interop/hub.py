"""Models of the Hugging Face hub by name: `hub:NAME[@REVISION]`, brought into the hub's own cache and read from there.

A revision is a branch, a tag or a commit; without one it is the branch main. Within one process, and within a run that has
begun, a name means the commit that it meant first (`pinned`): a branch that moves in between changes nothing.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dpojax.errors import InputError, WeightsError

HUB = "hub:"
COMMIT = re.compile(r"[0-9a-f]{40}")
# What a model is read from. Weights of torch and copies in folders below are not brought.
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
LEFT_OUT = ("*/*",)
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

_commits: dict[str, str] = {}  # what paths have meant in this process
_pins: list[dict[str, str]] = []  # of the runs that are under way, the innermost last: what paths mean there


def is_hub(path: str | Path) -> bool:
  """Whether a path names a model of the hub."""
  return str(path).startswith(HUB)


def parse(path: str) -> tuple[str, str]:
  """(name, revision) of `hub:NAME[@REVISION]`; WeightsError where it is none."""
  name, at, revision = path.removeprefix(HUB).partition("@")
  if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or (at and not revision.strip()):
    raise WeightsError(f"{path}: no name of the hub; write {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
  return name, revision or "main"


@contextlib.contextmanager
def pinned(commits: Mapping[str, str]) -> Iterator[dict[str, str]]:
  """Within the block paths mean the commits that are given; what is yielded gathers those of all paths that are asked for."""
  pins = dict(commits)
  _pins.append(pins)
  try:
    yield pins
  finally:
    _pins.remove(pins)


def resolved() -> dict[str, str]:
  """path -> commit of the models that the run under way, else this process, has asked for."""
  return dict(_pins[-1] if _pins else _commits)


def commit(path: str) -> str:
  """The commit that a path means, 40 hexadecimal digits; errors as `snapshot`."""
  return snapshot(path).name


def snapshot(path: str, *, say: Callable[[str], None] | None = None) -> Path:
  """The folder of the cache that holds the model; what is missing is downloaded, and gone on with where that was interrupted.

  Args:
    path: `hub:NAME[@REVISION]`.
    say: where a line about a download goes; None: standard error.

  Raises:
    WeightsError: no such name or revision, no right to read it, or neither network nor copy; says what would be right.
  """
  name, revision = parse(path)
  known = (_pins[-1] if _pins else {}).get(path) or _commits.get(path)
  if known is None and COMMIT.fullmatch(revision):
    known = revision
  folder = _cached(name, known) if known else None
  if folder is None:
    folder = _downloaded(path, name, known or revision, say or _to_stderr)
  if not any(folder.glob("*.safetensors")):
    raise WeightsError(
      f"{path}: holds no .safetensors file, and weights of torch (.bin) are not read; let transformers write it anew with "
      "save_pretrained, or name another model"
    )
  _commits.setdefault(path, folder.name)
  for pins in _pins[-1:]:
    pins.setdefault(path, folder.name)
  return folder


def _to_stderr(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def where() -> dict[str, Any]:
  """Address of the hub and folder of its cache, as the environment says them now."""
  found = {"endpoint": os.environ.get("HF_ENDPOINT"), "cache_dir": os.environ.get("HF_HUB_CACHE")}
  return {name: value for name, value in found.items() if value}


def _cached(name: str, revision: str) -> Path | None:
  """The folder of a model that is there, whole; None otherwise."""
  from huggingface_hub import snapshot_download
  from huggingface_hub.errors import LocalEntryNotFoundError

  with contextlib.suppress(LocalEntryNotFoundError):
    return Path(_quietly(snapshot_download, name, revision, local_files_only=True))
  return None


def _downloaded(path: str, name: str, revision: str, say: Callable[[str], None]) -> Path:
  from huggingface_hub import HfApi, snapshot_download

  endpoint = where().get("endpoint")
  try:
    cached = _cached(name, revision)
    if cached is not None:  # of a branch or a tag, which may have moved since
      try:
        if HfApi(endpoint=endpoint).model_info(name, revision=revision).sha == cached.name:
          return cached
      except Exception as error:
        if _is_refused(error):
          raise
        say(f"{path}: the hub cannot be reached, so the copy in the cache is used (commit {cached.name[:12]})")
        return cached
    say(f"{path}: downloading from the hub")
    folder = Path(_quietly(snapshot_download, name, revision))
  except InputError:
    raise
  except Exception as error:  # the network's libraries have errors of their own
    raise WeightsError(f"{path}: {explained(error, name, revision)}") from error
  say(f"{path}: commit {folder.name}")
  return folder


def _quietly(download: Callable[..., Any], name: str, revision: str, **options: Any) -> Any:
  """`snapshot_download`, whose bars are drawn on terminals only."""
  from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

  quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
  if quiet:
    disable_progress_bars()
  try:
    return download(
      name, revision=revision, allow_patterns=list(FILES), ignore_patterns=list(LEFT_OUT), **where(), **options
    )
  finally:
    if quiet:
      enable_progress_bars()


def _is_refused(error: Exception) -> bool:
  """Whether the hub has answered, and not with a fault of its own."""
  status = getattr(getattr(error, "response", None), "status_code", 500)
  return 400 <= status < 500 and status != 429


def explained(error: Exception, name: str, revision: str = "main", *, pushing: bool = False) -> str:
  """What an error of the hub's library means, and what would be right, in one line."""
  from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
  )

  status = getattr(getattr(error, "response", None), "status_code", None)
  if isinstance(error, HFValidationError):
    return f"no name of the hub ({_first_line(error)}); write OWNER/NAME"
  if isinstance(error, GatedRepoError):
    return f"it is gated: accept its terms on its page, https://huggingface.co/{name}, then {LOG_IN}"
  if isinstance(error, RevisionNotFoundError):
    return f"there is no revision {revision!r}; there is {_revisions(name)}"
  if isinstance(error, RepositoryNotFoundError):
    return f"there is no such repository on the hub, or it is private; mend the name, or {LOG_IN}"
  if status in (401, 403):
    return f"the hub refuses it ({status}); {LOG_IN} to a token that may"
  if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)) or (status is None and not _of_disk(error)):
    reason = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
    if pushing:
      return f"{reason} ({_first_line(error)}); see to the network, and push again"
    return f"{reason}, and the cache has no copy of it; see to the network, or give the path of a folder"
  if status is not None:
    return f"the hub answers {status} ({_first_line(error)}); try again later"
  return f"it cannot be written to the hub's cache ({_first_line(error)}); HF_HOME names another folder"


def _of_disk(error: Exception) -> bool:
  return isinstance(error, OSError) and error.errno is not None and error.filename is not None


def _first_line(error: Exception) -> str:
  return (str(error).strip() or repr(error)).splitlines()[0]


def _revisions(name: str) -> str:
  """The branches and tags that a model has."""
  from huggingface_hub import HfApi

  try:
    refs = HfApi(endpoint=where().get("endpoint")).list_repo_refs(name)
    return ", ".join([ref.name for ref in [*refs.branches, *refs.tags]][:10]) or "none"
  except Exception:
    return "the branch main; or give a tag or a commit"


def check_push(name: str) -> None:
  """Raises WeightsError where a model cannot be pushed as `NAME[@REVISION]`: no name of the hub, or no token."""
  from huggingface_hub import get_token

  parse(HUB + name.removeprefix(HUB))
  if not get_token():
    raise WeightsError(f"--push={name}: there is no token of the hub; {LOG_IN} to one that may write")


def push(folder: Path, name: str, *, private: bool = False, message: str) -> str:
  """Uploads a folder as a model of the hub, which is made where there is none, in one commit; where it is to be seen.

  Args:
    name: `NAME[@REVISION]`; a revision is a branch, which is made where there is none.
    private: of a repository that is made.
    message: of the commit.

  Raises:
    WeightsError: the hub refuses it or cannot be reached; says what would be right.
  """
  from huggingface_hub import HfApi

  repository, revision = parse(HUB + name.removeprefix(HUB))
  api = HfApi(endpoint=where().get("endpoint"), library_name="dpojax")
  try:
    repository = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
    if revision != "main":
      api.create_branch(repository, branch=revision, exist_ok=True)
    done = _without_bars(
      lambda: api.upload_folder(
        folder_path=folder, repo_id=repository, revision=revision, commit_message=message, ignore_patterns=[".*"]
      )
    )
  except Exception as error:
    raise WeightsError(f"--push={name}: {explained(error, repository, revision, pushing=True)}") from error
  return str(getattr(done, "commit_url", done))


def _without_bars(call: Callable[[], Any]) -> Any:
  from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

  if sys.stderr.isatty():
    return call()
  disable_progress_bars()
  try:
    return call()
  finally:
    enable_progress_bars()
