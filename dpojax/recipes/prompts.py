"""Held-out prompts that a policy answers while it trains, and what measures the answers."""

import dataclasses
from collections.abc import Callable

from dpojax.config.schema import RunConfig
from dpojax.data.dataset import encode_prompts
from dpojax.data.splits import Splits, first_distinct_prompts
from dpojax.data.worlds import get_world
from dpojax.training.model_files import LoadedModel
from dpojax.training.sample_policy import PolicySampler
from dpojax.types import Params


def policy_sampler(
  config: RunConfig, policy: LoadedModel, splits: Splits, reference: Callable[[], Params]
) -> PolicySampler | None:
  """What measures the policy's own answers to held-out prompts, or None where there are none."""
  wanted = config.monitor.prompts
  if wanted == 0:
    return None
  if config.data.source == "world":
    world = get_world(config.data.name)
    texts = world.prompts(wanted, config.monitor.seed, split="held_out")
    prompts = encode_prompts(texts, config.data, policy.tokenizer)
    reward, display = world.reward, world.display
  else:
    chosen = first_distinct_prompts(splits.held_out, wanted)
    prompts = [splits.held_out[i].prompt for i in chosen]
    texts = [str(splits.held_out.metadata[i]["prompt"]) for i in chosen]
    reward, display = None, str
  if not prompts:
    return None
  settings = dataclasses.replace(config.monitor, seed=config.monitor.seed + config.seed)
  return PolicySampler(policy.model, reference, policy.tokenizer, prompts, texts, settings, reward, display)
