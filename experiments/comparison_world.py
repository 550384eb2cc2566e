"""How much of the possible trained policies gain: true reward against KL, beside the oracle curve, and a tournament.

dpojax train --config=experiments/comparison_world.py --workdir=runs/compared --config.model.path=runs/ppo_world/sft \
  --config.comparison.policies=runs/ppo_world/ppo,runs/rloo_world/rloo --config.comparison.oracle=ppo,rloo

Runs of the complaint desk that started from the same SFT model, `model.path`, answer the same 128 held-out letters. The oracle
is pi_ref e^(r / lambda), estimated from the answers of the policies that `comparison.oracle` names; the more of them lie far
from the reference, the further it reaches. One minute for three policies.
"""

from dpojax.config import base


def get_config():
  config = base()
  config.recipe = "comparison"
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.model.path = "runs/ppo_world/sft"
  config.comparison.policies = "runs/ppo_world/ppo"
  config.comparison.oracle = "ppo"
  config.comparison.splits = "held_out,unseen_order"
  config.rollout.prompts = 128
  config.rollout.samples = 32
  config.rollout.max_tokens = 48
  return config
