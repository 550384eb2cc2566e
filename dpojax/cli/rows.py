"""What commands that score the rows of a file share: options of reading, and warnings."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from dpojax.cli.arguments import file_path, in_range
from dpojax.config.option import LONGEST_ROW, MOST_ROWS
from dpojax.config.schema import DataSettings

DATA_OPTIONS = (
  "format",
  "columns",
  "template",
  "after_eos",
  "max_prompt",
  "max_answer",
  "max_example",
  "overlong",
  "limit",
)


def add_rows(parser: argparse.ArgumentParser) -> None:
  """`--data`, how it is read, and how it is packed."""
  parser.add_argument(
    "--data", required=True, metavar="FILE", type=file_path, help="JSONL, JSON, CSV or Parquet file, .gz allowed"
  )
  parser.add_argument(
    "--rows", metavar="N", type=in_range(int, 1, MOST_ROWS), default=4, help="packed rows at once (4)"
  )
  parser.add_argument(
    "--row-length",
    metavar="N",
    type=in_range(int, 0, LONGEST_ROW),
    default=0,
    help="tokens of a packed row; 0: what the longest row needs",
  )
  add_data_options(parser)


def add_data_options(parser: argparse.ArgumentParser, names: Sequence[str] = DATA_OPTIONS) -> None:
  """Settings of `data` as options; their defaults are those of the settings."""
  fields = {field.name: field for field in dataclasses.fields(DataSettings)}
  for name in names:
    field = fields[name]
    parser.add_argument(
      f"--{name.replace('_', '-')}",
      default=field.default,
      choices=field.metadata["choices"],
      type=in_range(int, 0) if isinstance(field.default, int) else str,
      help=f"{field.metadata['meaning']} ({field.default})",
    )


def data_settings(options: argparse.Namespace) -> DataSettings:
  """The settings of `--data` and those of the options beside it that the command has; nothing is held out."""
  given: dict[str, Any] = {name: getattr(options, name) for name in DATA_OPTIONS if hasattr(options, name)}
  return DataSettings(source="file", path=options.data, eval_fraction=0.0, **given)


def say_warnings(warnings: Sequence[str]) -> None:
  """What to know of the data as a whole, on stderr."""
  for warning in warnings:
    print(f"data: {warning}", file=sys.stderr)
