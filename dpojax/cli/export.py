"""`dpojax export`: a run's model as a folder that transformers loads."""

import pathlib
import re
import shutil

from dpojax.cli.options import Parser
from dpojax.errors import CheckpointError, ConfigError

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def main(arguments: list[str]) -> int:
  """Writes the folder and says where it is."""
  parser = Parser(
    "dpojax export",
    "Writes a run's model as a transformers folder: safetensors, config, tokenizer, chat template and model card.",
  )
  parser.add_argument("--workdir", required=True, metavar="DIR", help="working directory of the run")
  parser.add_argument("--out", required=True, metavar="DIR", help="new or empty folder to write")
  parser.add_argument("--step", type=int, metavar="N", help="checkpoint to export; without it the newest sound one")
  parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest weights file, such as 500MB")
  parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the written weights")
  options = parser.parse_args(arguments)
  export(
    pathlib.Path(options.workdir),
    pathlib.Path(options.out),
    step=options.step,
    max_shard_bytes=parse_size(options.max_shard_size),
    dtype=options.dtype,
  )
  print(f"exported {options.workdir} to {options.out}")
  return 0


def export(
  workdir: pathlib.Path, out: pathlib.Path, *, step: int | None = None, max_shard_bytes: int, dtype: str = "float32"
) -> None:
  """Writes the model of the run in `workdir` to `out`, which appears only when it is complete.

  Raises:
    ConfigError: `out` holds something already.
    CheckpointError: `workdir` is not that of a run, or has no such checkpoint.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ConfigError(f"--out={out}: must be new or empty, and holds something already")
  if not (workdir / "model.json").is_file():
    raise CheckpointError(f"--workdir={workdir}: no model.json there; is it the workdir of a run?")

  import ml_dtypes
  import numpy as np

  from dpojax.assemble import load_model
  from dpojax.config.record import read_config, to_json
  from dpojax.interop.files import write_model_folder
  from dpojax.interop.model_card import model_card
  from dpojax.models.weights import tensors_from_params
  from dpojax.report import read_result

  config = read_config(workdir)
  result = read_result(workdir) if (workdir / "result.json").exists() else None
  model, params, tokenizer = load_model(workdir if step is None else workdir / "checkpoints" / str(step))
  tensors = tensors_from_params(model.config, params)
  if dtype == "bfloat16":
    tensors = {name: np.asarray(tensor).astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
  part = out.with_name(f".{out.name}.part")
  shutil.rmtree(part, ignore_errors=True)
  write_model_folder(
    part,
    model.config.to_transformers() | {"dtype": dtype, "torch_dtype": dtype},
    tensors,
    tokenizer,
    generation_config(tokenizer),
    max_shard_bytes=max_shard_bytes,
  )
  name = workdir.resolve().name
  (part / "README.md").write_text(model_card(name, to_json(config), result, step=step), encoding="utf-8")
  for weights in part.glob("*.safetensors"):
    weights.chmod((part / "config.json").stat().st_mode)  # safetensors writes them for the owner alone
  if out.exists():
    out.rmdir()
  part.rename(out)


def generation_config(tokenizer) -> dict:
  """Where generation begins and ends, as transformers' generation_config.json says it."""
  ends = list(tokenizer.eos_ids)
  ids = {
    "bos_token_id": tokenizer.bos_id,
    "eos_token_id": ends if len(ends) > 1 else tokenizer.eos_id,
    "pad_token_id": tokenizer.pad_id,
  }
  return {name: value for name, value in ids.items() if value is not None}


def parse_size(text: str) -> int:
  """Bytes of a text such as "500MB", "5GB" or "1000"; ConfigError for anything else or less than 1."""
  match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]B)?", text.strip(), re.IGNORECASE)
  size = int(float(match.group(1)) * UNITS[(match.group(2) or "").upper()]) if match else 0
  if size < 1:
    raise ConfigError(f"--max-shard-size={text}: wants a size such as 500MB or 5GB")
  return size
