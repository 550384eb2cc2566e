"""What commands that score the rows of a file share: options of reading, and progress."""

import argparse
import dataclasses
import sys
import time
from typing import Any

from dpojax.cli.arguments import in_range
from dpojax.config.schema import DataSettings

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


def add_rows(parser: argparse.ArgumentParser) -> None:
  """`--data`, how it is read, and how it is packed."""
  parser.add_argument("--data", required=True, metavar="FILE", help="JSONL, JSON, CSV or Parquet file, .gz allowed")
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


def data_settings(options: argparse.Namespace) -> DataSettings:
  """The settings of `--data` and the options beside it; nothing is held out."""
  given: dict[str, Any] = {name: getattr(options, name) for name in DATA_OPTIONS}
  return DataSettings(source="file", path=options.data, eval_fraction=0.0, **given)


class Progress:
  """Examples done and tokens a second on stderr: one live line on a terminal, else a line now and then."""

  def __init__(self, total: int, what: str = "scored"):
    self.total, self.what = total, what
    self.start = self.shown = time.monotonic()
    self.live = sys.stderr.isatty()

  def show(self, done: int, tokens: int) -> None:
    now = time.monotonic()
    if not self.live and now - self.shown < REPORT_SECONDS:
      return
    self.shown = now
    line = f"{self.what} {done}/{self.total} rows, {tokens / (now - self.start):.0f} tokens/s"
    print(f"\r{line:<60}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

  def close(self) -> None:
    if self.live:
      print(file=sys.stderr)
