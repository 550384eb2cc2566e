"""How importance weights run away as a roll-out goes stale: each one used for 1, 2, 4, 8 or 16 passes.

dpojax train --config=experiments/staleness.py --workdir=runs/staleness
python experiments/staleness_figure.py runs/staleness

Six roll-outs of 256 answers whatever the passes, so all runs of a kind see equally many samples; nothing ends a
roll-out's steps early. Stages ppo_N clip ratios at 0.2, unclipped_N do not, learned_N climb a reward model and not the
true reward; dpo_N make N passes over 1,500 pairs, which need no weights however old they are.

Result: section `staleness` of experiments/README.md. Unclipped, a token's weight has a variance of 17 in the fourth pass and of
500,000 in the sixteenth, and the reward collapses; clipped, 0.41. About 12 minutes on two cores without learned_N.
"""

from dpojax.config import stages

PASSES = (1, 2, 4, 8, 16)
ROLLOUTS = 6


def get_config():
  kinds = {"ppo": "policy_gradient", "unclipped": "policy_gradient", "learned": "policy_gradient", "dpo": "preference"}
  repeated = {f"{kind}_{passes}": recipe for kind, recipe in kinds.items() for passes in PASSES}
  config = stages(sft="sft", pairs="pairs", reward_model="reward_model", **repeated)

  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.data.eval_fraction = 0.05

  config.model.hidden = 128
  config.model.layers = 2
  config.model.heads = 4
  config.model.kv_heads = 4
  config.model.ffn = 384
  config.model.remat = "none"

  config.batch.size = 16
  config.batch.rows = 5
  config.batch.row_length = 256

  sft = config.sft
  sft.batch.size = 32
  sft.data.texts = 25_000
  sft.optimizer.learning_rate = 4e-3
  sft.optimizer.schedule = "cosine"
  sft.optimizer.warmup_steps = 20
  sft.train.steps = 800
  sft.train.log_every = 10
  sft.monitor.prompts = 0

  pairs = config.pairs
  pairs.model.path = "stage:sft"
  pairs.pairs.prompts = 250
  pairs.pairs.samples = 4
  pairs.pairs.max_tokens = 48

  reward_model = config.reward_model
  reward_model.model.path = "stage:sft"
  reward_model.data.path = "stage:pairs"
  reward_model.optimizer.learning_rate = 5e-4
  reward_model.optimizer.warmup_steps = 20
  reward_model.train.epochs = 2.0
  reward_model.train.log_every = 10

  for name, recipe in repeated.items():
    kind, passes = name.split("_")
    stage = config[name]
    stage.model.path = "stage:sft"
    stage.optimizer.learning_rate = 5e-4
    stage.monitor.rewards = "true"
    stage.monitor.prompts = 256
    stage.monitor.max_tokens = 48
    stage.stop.kl_budget = 0.0
    stage.train.log_every = 48
    if recipe == "preference":
      stage.data.path = "stage:pairs"
      stage.loss.beta = 0.2
      stage.train.epochs = float(passes)
      continue
    stage.rollout.reward = "model:stage:reward_model" if kind == "learned" else "true"
    stage.rollout.samples = 4
    stage.rollout.max_tokens = 48
    stage.rollout.normalise = True
    stage.policy_gradient.epochs = int(passes)
    stage.policy_gradient.update_kl_limit = 0.0
    stage.policy_gradient.clip = 1e6 if kind == "unclipped" else 0.2
    stage.optimizer.eps = 1e-5
    stage.train.steps = ROLLOUTS * 4 * int(passes)
  return config
