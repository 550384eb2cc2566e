"""A setting: a field with its meaning and its range."""

import dataclasses
from typing import Any

LARGEST_SEED = 2**30 - 1  # two of them are added, and what draws takes 32 bits with a sign
LOWEST_TEMPERATURE = 1e-3  # logits divided by less are lost in float32, and near 1e-45 it is 0 there
LARGEST_WEIGHT = 1e6  # of a term of a loss or a score: far beyond, others are lost in float32, and then it overflows


LARGEST_COUNT = 2**31 - 1  # positions, steps and seeds are 32 bits on devices
# What attention's lists of blocks can name (dpojax.ops.attention_blocks).
LONGEST_ROW = 131_072
MOST_ROWS = 2048
MOST_SAMPLES = 100_000  # answers a prompt


def option(
  default: Any,
  meaning: str,
  *,
  kind: type | None = None,
  choices: tuple[Any, ...] | None = None,
  minimum: float | None = None,
  above: float | None = None,
  maximum: float | None = None,
  below: float | None = None,
  execution: bool = False,
  only: tuple[str, ...] = (),
) -> Any:
  """A field with a default, its meaning, and its range (`minimum`/`maximum` closed, `above`/`below` open).

  A whole number is at most 2^31 - 1 where no `maximum` says less, or `below`.

  A default of None means "left open" and needs the `kind` of a value that is given. A setting of `execution` says how
  a run is carried out (devices, logs, plots) and not what it computes: a run goes on when it has changed.

  `only` is the key of another setting and its values, ("reference.kind", "moving"), beside which this one is read.
  """
  if (kind or type(default)) is int and maximum is None and below is None:
    maximum = LARGEST_COUNT
  metadata = dict(
    meaning=meaning,
    kind=kind or type(default),
    choices=choices,
    minimum=minimum,
    above=above,
    maximum=maximum,
    below=below,
    execution=execution,
    only=only,
  )
  return dataclasses.field(default=default, metadata=metadata)
