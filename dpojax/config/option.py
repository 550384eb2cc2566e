"""A setting: a field with its meaning and its range."""

import dataclasses
from typing import Any


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
) -> Any:
  """A field with a default, its meaning, and its range (`minimum`/`maximum` closed, `above`/`below` open).

  A default of None means "left open" and needs the `kind` of a value that is given. A setting of `execution` says how
  a run is carried out (devices, logs, plots) and not what it computes: a run goes on when it has changed.
  """
  metadata = dict(
    meaning=meaning,
    kind=kind or type(default),
    choices=choices,
    minimum=minimum,
    above=above,
    maximum=maximum,
    below=below,
    execution=execution,
  )
  return dataclasses.field(default=default, metadata=metadata)
