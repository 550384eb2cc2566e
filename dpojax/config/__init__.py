"""Settings: what they are (`schema`), their dotted keys, their JSON form, their checks, their loading.

The names below are loaded when first used, so that importing `dpojax.config.schema` stays cheap.
"""

import importlib

_HOME = {
  "base": "load",
  "stages": "load",
  "load_config": "load",
  "load_experiment": "load",
  "resolve": "load",
  "difference": "record",
  "from_json": "record",
  "to_json": "record",
}


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
