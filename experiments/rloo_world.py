"""RLOO on the built-in complaint desk with the true reward at 2 nats an answer: no critic, four answers a prompt.

dpojax train --config=experiments/rloo_world.py --workdir=runs/rloo_world

Roll-outs, samples and KL target are those of stage ppo of ppo_world; KL is part of every answer's return.

Result: section `ppo_world` of experiments/README.md; 91 to 92 % of the oracle's gain at its KL (three seeds), as PPO. 4 minutes.
"""

from dpojax.config import stages


def get_config():
  config = stages(sft="sft", rloo="policy_gradient")

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

  for name in ("rloo",):
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
