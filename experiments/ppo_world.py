"""PPO."""

from dpojax.config import stages


def get_config():
  config = stages(sft="sft", ppo="policy_gradient")

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

  ppo = config.ppo
  ppo.model.path = "stage:sft"
  ppo.rollout.samples = 4
  ppo.rollout.max_tokens = 48
  ppo.rollout.normalise = True
  ppo.policy_gradient.kl_controller = "exponential"
  ppo.policy_gradient.kl_coef = 0.1
  ppo.policy_gradient.kl_target = 2.0
  ppo.optimizer.learning_rate = 5e-4
  ppo.optimizer.eps = 1e-5
  ppo.train.steps = 16 * 60
  ppo.train.log_every = 16
  ppo.monitor.every = 160
  ppo.monitor.prompts = 256
  ppo.monitor.max_tokens = 48
  return config
