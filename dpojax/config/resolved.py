"""What the settings called "auto" come to, where the settings alone decide it."""

import dataclasses

from dpojax.config.schema import PolicyGradientSettings, RunConfig

AUTO = "auto"
# Of each method of a policy gradient: (reduction, whiten, kl).
POLICY_GRADIENT = {
  "ppo": ("token", "minibatch", "reward"),
  "rloo": ("sequence", "none", "reward"),
  "reinforce": ("sequence", "none", "reward"),
  "grpo": ("answer", "none", "loss"),
  "dr_grpo": ("constant", "none", "loss"),
}


def resolved(settings: PolicyGradientSettings) -> PolicyGradientSettings:
  """The settings with what "auto" means for the method."""
  return dataclasses.replace(settings, **_autos(settings))


def autos(config: RunConfig) -> list[str]:
  """A line for each setting of the recipe that was left to its method: 'policy_gradient.kl: auto is reward'."""
  if config.recipe != "policy_gradient":
    return []
  return [f"policy_gradient.{name}: auto is {value}" for name, value in _autos(config.policy_gradient).items()]


def _autos(settings: PolicyGradientSettings) -> dict[str, str]:
  names = ("reduction", "whiten", "kl")
  defaults = zip(names, POLICY_GRADIENT[settings.method], strict=True)
  return {name: default for name, default in defaults if getattr(settings, name) == AUTO}
