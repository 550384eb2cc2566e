"""Every offline loss on the built-in complaint desk with one budget: the table `losses_world` of experiments/README.md.

dpojax sweep --config=experiments/losses_world.py --grid preference.loss.name=dpo,ipo,kto,... --workdir=runs/losses

Model, SFT and letters are those of the quickstart. Every loss learns from the same answers that the SFT model writes
itself, read as pairs, single answers, rankings or triples of them, for 200 steps of 32 examples at one learning rate,
and with the beta of its own paper.
"""

from dpojax.config import stages


def get_config():
  config = stages(sft="sft", pairs="pairs", preference="preference")

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

  pairs = config.pairs
  pairs.model.path = "stage:sft"
  pairs.pairs.prompts = 1000
  pairs.pairs.samples = 4
  pairs.pairs.max_tokens = 48

  preference = config.preference
  preference.model.path = "stage:sft"
  preference.data.path = "stage:pairs"
  preference.optimizer.learning_rate = 5e-4
  preference.optimizer.warmup_steps = 20
  preference.train.steps = 200
  preference.train.log_every = 10
  preference.monitor.prompts = 256
  preference.monitor.max_tokens = 48
  return config
