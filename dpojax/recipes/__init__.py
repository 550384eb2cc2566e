"""Recipes: one file a stage, each read from top to bottom.

A recipe is `run(config, inputs, folder) -> RunResult`: it loads what the stage starts from, makes sure that the folder
is the stage's own, and does the work. It resumes by itself what the folder holds. To add one, write its file, name it
here, in `dpojax.config.schema.RunConfig.recipe` and in `dpojax.config.keys.SECTIONS`.
"""

from collections.abc import Callable

from dpojax.recipes import best_of_n, comparison, online, pairs, policy_gradient, preference, reward_model, sft
from dpojax.recipes.inputs import Inputs
from dpojax.training.loop import RunResult
from dpojax.training.run_folder import RunFolder

RECIPES: dict[str, Callable[..., RunResult]] = {
  "sft": sft.run,
  "pairs": pairs.run,
  "reward_model": reward_model.run,
  "preference": preference.run,
  "policy_gradient": policy_gradient.run,
  "best_of_n": best_of_n.run,
  "online": online.run,
  "comparison": comparison.run,
}

__all__ = ["RECIPES", "Inputs", "RunFolder", "RunResult"]
