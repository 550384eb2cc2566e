"""`dpojax score`: log-probs of the answers in a file under a model, as JSONL."""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from dpojax.cli.arguments import add_model
from dpojax.cli.options import Parser
from dpojax.cli.rows import Progress, add_rows, data_settings
from dpojax.errors import ConfigError

if TYPE_CHECKING:
  from dpojax.data.examples import TokenDataset
  from dpojax.sampling.score import Scores

DESCRIPTION = """Log-probs of the answers in a file under a model, one JSON object a row, in row order.

  a pair       {"row": 0, "chosen_logp": -61.2, "rejected_logp": -70.9, "chosen_tokens": 30, "rejected_tokens": 33}
  K answers    {"row": 0, "logps": [-61.2, ...], "tokens": [30, ...]}
  left out     {"row": 0, "error": "pairs.jsonl:1: empty answer"}

Log-probs are in nats, summed over the answer's tokens with its EOS. Rows are counted from 0."""


def main(arguments: list[str]) -> int:
  """0 when every row is in the output, scored or with its error."""
  options = _parser().parse_args(arguments)

  from dpojax.parallel import check_one_process

  check_one_process()
  with _atomic_text(options.out) as out:
    from dpojax.assemble import load_language_model
    from dpojax.cli import compilation_cache
    from dpojax.data.dataset import load_dataset
    from dpojax.sampling.score import score_answers
    from dpojax.types import Answers

    compilation_cache.begin()
    model, params, tokenizer = load_language_model(options.model, precision=options.precision)
    positions = model.config.max_positions
    settings = data_settings(options)
    settings = dataclasses.replace(settings, max_example=min(settings.max_example or positions, positions))
    dataset, _ = load_dataset(settings, tokenizer, answers=Answers.ANY, row_length=options.row_length)
    progress = Progress(len(dataset))
    scores = score_answers(
      model, params, dataset, rows=options.rows, row_length=options.row_length, progress=progress.show
    )
    progress.close()
    for line in _lines(dataset, scores):
      out.write(json.dumps(line) + "\n")
  failed = f", not scored: {len(dataset.dropped)} (their errors are in the file)" if dataset.dropped else ""
  print(f"{options.out}: rows scored: {len(dataset)}{failed}", file=sys.stderr)
  return 0


def _parser() -> Parser:
  parser = Parser("dpojax score", DESCRIPTION)
  add_model(parser)
  add_rows(parser)
  parser.add_argument("--out", required=True, metavar="FILE", help="written when all is done, or not at all")
  return parser


def _lines(dataset: "TokenDataset", scores: "list[Scores]") -> list[dict[str, Any]]:
  """What to write of every row that was read, in row order."""
  lines = [{"row": number, "error": why} for number, why in dataset.dropped]
  for metadata, score in zip(dataset.metadata, scores, strict=True):
    line: dict[str, Any] = {"row": metadata["number"]}
    logps, tokens = score.logps.tolist(), score.tokens.tolist()
    if dataset.num_answers == 2 and len(logps) == 2:
      line |= {f"{side}_logp": logp for side, logp in zip(("chosen", "rejected"), logps, strict=True)}
      line |= {f"{side}_tokens": count for side, count in zip(("chosen", "rejected"), tokens, strict=True)}
    else:
      line |= {"logps": logps, "tokens": tokens}
    lines.append(line)
  return sorted(lines, key=lambda line: line["row"])


@contextlib.contextmanager
def _atomic_text(path: str) -> Iterator[IO[str]]:
  """A file that appears under `path` only when the block ends without an error."""
  target = pathlib.Path(path)
  try:
    if target.is_dir():
      raise IsADirectoryError(0, "it is a folder")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    out = part.open("w", encoding="utf-8")
  except OSError as error:
    raise ConfigError(f"--out={path}: {error.strerror}; name a file in an existing, writable folder") from None
  try:
    with out:
      yield out
    part.replace(target)
  finally:
    part.unlink(missing_ok=True)
