"""GRPO on the built-in complaint desk with the true reward at 2 nats an answer: as published, KL (k3) in the loss.

dpojax train --config=experiments/grpo_world.py --workdir=runs/grpo_world

Roll-outs, samples and KL target are those of stage ppo of ppo_world. Stage dr_grpo leaves out the division by the
standard deviation of a prompt's scores and by the length of an answer.

Result: section `ppo_world` of experiments/README.md; grpo has 85 % of the oracle's gain at its KL
(three seeds), dr_grpo too (one seed). 4 minutes a stage.
"""

from dpojax.config import stages


def get_config():
  config = stages(sft="sft", grpo="policy_gradient", dr_grpo="policy_gradient")

  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.data.eval_fraction = 0.05

  config.model.hidden = 128
  config.model.layers = 2
  config.model.heads = 4
  config.model.kv_heads = 4
  config.model.ffn = 384
  config.model.remat = "none"

  config.batch.size = 32
  config.batch.rows = 5
  config.batch.row_length = 256

  sft = config.sft
  sft.data.texts = 25_000
  sft.optimizer.learning_rate = 4e-3
  sft.optimizer.schedule = "cosine"
  sft.optimizer.warmup_steps = 20
  sft.train.steps = 800
  sft.train.log_every = 10
  sft.monitor.prompts = 0

  for name in ("grpo", "dr_grpo"):
    stage = config[name]
    stage.model.path = "stage:sft"
    stage.policy_gradient.method = name
    stage.rollout.samples = 4
    stage.rollout.max_tokens = 48
    stage.rollout.normalise = True
    stage.policy_gradient.kl_controller = "exponential"
    stage.policy_gradient.kl_coef = 0.1
    stage.policy_gradient.kl_target = 2.0
    stage.optimizer.learning_rate = 5e-4
    stage.optimizer.eps = 1e-5
    stage.train.steps = 30 * 16  # 30 roll-outs of 4 epochs of 4 minibatches
    stage.train.log_every = 16
    stage.monitor.every = 120
    stage.monitor.prompts = 256
    stage.monitor.max_tokens = 48
    stage.stop.kl_budget = 0.0  # the controller's target stands in for it
  return config
