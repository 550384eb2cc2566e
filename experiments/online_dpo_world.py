"""Online DPO with the true reward on the built-in complaint desk, and its offline end beside it."""

from dpojax.config import stages


def get_config():
  config = stages(sft="sft", online="online", offline="online")

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

  for stage in (config.online, config.offline):
    stage.model.path = "stage:sft"
    stage.rollout.samples = 4
    stage.rollout.max_tokens = 48
    stage.loss.beta = 0.2
    stage.optimizer.learning_rate = 5e-4
    stage.optimizer.warmup_steps = 20
    stage.train.steps = 300
    stage.train.log_every = 10
    stage.monitor.every = 50
    stage.monitor.prompts = 256
    stage.monitor.max_tokens = 48
  config.online.online.refresh = 8  # steps between two roll-outs
  config.offline.online.refresh = config.offline.train.steps  # as many as the run has: one roll-out, of the start
  return config
