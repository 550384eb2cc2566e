"""`dpojax score`: log-probs of the answers in a file under a model, as JSONL."""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from dpojax.cli.arguments import add_model, in_range
from dpojax.cli.options import Parser
from dpojax.config.schema import DataSettings
from dpojax.errors import ConfigError

if TYPE_CHECKING:
  from dpojax.data.examples import TokenDataset
  from dpojax.sampling.score import Scores

DATA_OPTIONS = (
  "format",
  "template",
  "after_eos",
  "max_prompt",
  "max_answer",
  "max_example",
  "overlong",
  "limit",
)
REPORT_SECONDS = 10.0  # between progress lines where there is no terminal

DESCRIPTION = """Log-probs of the answers in a file under a model, one JSON object a row, in row order.

  a pair       {"row": 0, "chosen_logp": -61.2, "rejected_logp": -70.9, "chosen_tokens": 30, "rejected_tokens": 33}
  K answers    {"row": 0, "logps": [-61.2, ...], "tokens": [30, ...]}
  left out     {"row": 0, "error": "pairs.jsonl:1: empty answer"}

Log-probs are in nats, summed over the answer's tokens with its EOS. Rows are counted from 0."""


def main(arguments: list[str]) -> int:
  """0 when every row is in the output, scored or with its error."""
  options = _parser().parse_args(arguments)
  with _atomic_text(options.out) as out:
    from dpojax.assemble import load_model
    from dpojax.data.dataset import load_dataset
    from dpojax.sampling.score import score_answers

    model, params, tokenizer = load_model(options.model, precision=options.precision)
    positions = model.config.max_positions
    given = {name: getattr(options, name) for name in DATA_OPTIONS}
    given["max_example"] = min(given["max_example"] or positions, positions)
    settings = DataSettings(source="file", path=options.data, eval_fraction=0.0, **given)
    dataset, _ = load_dataset(settings, tokenizer, kind="score", row_length=options.row_length)
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
  parser.add_argument("--data", required=True, metavar="FILE", help="JSONL, JSON, CSV or Parquet file, .gz allowed")
  parser.add_argument("--out", required=True, metavar="FILE", help="written when all is done, or not at all")
  parser.add_argument("--rows", metavar="N", type=in_range(int, 1), default=4, help="packed rows at once (4)")
  parser.add_argument(
    "--row-length",
    metavar="N",
    type=in_range(int, 0),
    default=0,
    help="tokens of a packed row; 0: what the longest row needs",
  )
  fields = {field.name: field for field in dataclasses.fields(DataSettings)}
  for name in DATA_OPTIONS:
    field = fields[name]
    parser.add_argument(
      f"--{name.replace('_', '-')}",
      default=field.default,
      choices=field.metadata["choices"],
      type=in_range(int, 0) if isinstance(field.default, int) else str,
      help=f"{field.metadata['meaning']} ({field.default})",
    )
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


class Progress:
  """Examples done and tokens a second on stderr: one live line on a terminal, else a line now and then."""

  def __init__(self, total: int):
    self.total = total
    self.start = self.shown = time.monotonic()
    self.live = sys.stderr.isatty()

  def show(self, done: int, tokens: int) -> None:
    now = time.monotonic()
    if not self.live and now - self.shown < REPORT_SECONDS:
      return
    self.shown = now
    line = f"scored {done}/{self.total} rows, {tokens / (now - self.start):.0f} tokens/s"
    print(f"\r{line:<60}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

  def close(self) -> None:
    if self.live:
      print(file=sys.stderr)


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
