"""How many roll-outs, answers and steps a stage will make, as far as its settings alone say it."""

from dpojax.config.resolved import resolved as with_autos
from dpojax.config.schema import RunConfig
from dpojax.recipes import online, rollouts
from dpojax.recipes.prompts import BEST_OF_PROMPTS, ENVIRONMENT_PROMPTS
from dpojax.rollout.pair_making import prompts_of_rollout


def planned(config: RunConfig) -> str:
  """`ppo: 6 roll-outs of 512 answers (4 to each of 128 prompts), 16 steps from each; 96 steps, 3,072 answers`.

  Where the number of prompts decides and only the data know it, what one roll-out makes; "" of other recipes.
  """
  rollout = config.rollout
  if config.recipe == "best_of_n":
    prompts = rollout.prompts or BEST_OF_PROMPTS
    at_most = "at most " * (config.data.source != "world")
    return (
      f"best_of_n: {at_most}{prompts * rollout.samples:,} answers ({rollout.samples:,} to each of {prompts:,} prompts)"
    )
  if config.recipe == "policy_gradient":
    settings = with_autos(config.policy_gradient)
    size, updates = rollouts.prompts_of_rollout(config), settings.epochs * settings.minibatches
  elif config.recipe == "online":
    size, updates = prompts_of_rollout(config.batch.size, rollout.samples, config.online), config.online.refresh
  else:
    return ""
  answers = size * rollout.samples
  prompts = rollout.prompts or ENVIRONMENT_PROMPTS
  if not config.train.steps and config.data.source != "world":
    return (
      f"roll-outs of {answers:,} answers ({rollout.samples:,} to each of {size:,} prompts), {updates:,} "
      f"step{'s' * (updates > 1)} from each; their number is that of the data's prompts times train.epochs="
      f"{config.train.epochs:g}, by {size:,}"
    )
  if config.recipe == "policy_gradient":
    steps = rollouts.planned_steps(config, prompts)
    words = rollouts.described(config, steps)
  else:
    settings = online.resolved(config)
    size = prompts_of_rollout(config.batch.size, rollout.samples, settings)
    steps = online.planned_steps(config, settings, size, prompts)
    words, updates, answers = online.described(config, settings, size, steps), settings.refresh, size * rollout.samples
  count = -(-steps // updates)
  return f"{words}; in all {count:,} roll-out{'s' * (count > 1)}, {count * answers:,} answers, {steps:,} steps"
