"""Model families: data and a few named options each, one file a family."""

from typing import Any

from dpojax.errors import WeightsError
from dpojax.models.families.common import Family
from dpojax.models.families.llama import LLAMA
from dpojax.models.families.mistral import MISTRAL

FAMILIES: dict[str, Family] = {family.name: family for family in (LLAMA, MISTRAL)}


def family_of(config: dict[str, Any]) -> Family:
  """The family a transformers `config.json` names by `model_type`."""
  name = config.get("model_type")
  if not isinstance(name, str) or name not in FAMILIES:
    raise WeightsError(f"config.json: model_type is {name!r}; supported: {', '.join(sorted(FAMILIES))}")
  family = FAMILIES[name]
  architectures = config.get("architectures") or [family.architecture]
  if not isinstance(architectures, list) or not any(
    known in architectures for known in (family.architecture, family.classifier)
  ):
    raise WeightsError(
      f"config.json: architectures is {architectures!r}; supported for {name}: {family.architecture}, "
      f"{family.classifier}"
    )
  return family


def is_reward_model(config: dict[str, Any]) -> bool:
  """Whether a transformers `config.json` is that of a decoder with a linear head on its last token."""
  return family_of(config).classifier in (config.get("architectures") or ())
