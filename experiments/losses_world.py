"""Every offline loss on the built-in complaint desk with one budget: the table `losses_world` of experiments/README.md.

dpojax sweep --config=experiments/losses_world.py --grid loss.name=dpo,ipo,kto,... --workdir=runs/losses

Model, SFT and letters are those of the quickstart. Every loss learns from the same answers that the SFT model writes
itself, read as pairs, single answers, rankings or triples of them, for 200 steps of 32 examples at one learning rate,
and with the beta of its own paper.
"""

from dpojax.config import base


def get_config():
  config = base()

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

  config.sft.steps = 800
  config.sft.batch_size = 32
  config.sft.learning_rate = 4e-3
  config.sft.texts = 25_000

  config.pairs.prompts = 1000
  config.pairs.samples = 4

  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 20
  config.train.steps = 200
  config.train.log_every = 10

  config.evaluation.prompts = 256
  config.evaluation.max_tokens = 48
  return config
