"""Learning from pairwise comparisons in JAX: Bradley-Terry, DPO and what lies between.

In a notebook: `from dpojax import load_config, build_model, build_data, build_trainer, ...`. These
names are loaded when first used, so that `import dpojax` and `dpojax --help` stay quick.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
  "load_config": "dpojax.config.load",
  "replace_values": "dpojax.config.keys",
  "Session": "dpojax.assemble",
  "build_batches": "dpojax.assemble",
  "build_data": "dpojax.assemble",
  "build_look": "dpojax.assemble",
  "build_model": "dpojax.assemble",
  "build_objective": "dpojax.assemble",
  "build_trainer": "dpojax.assemble",
  "load_model": "dpojax.assemble",
  "run": "dpojax.assemble",
}


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_HOME])
