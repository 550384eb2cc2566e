"""DPO on the built-in complaint desk, from nothing: SFT, pairs that the model writes, DPO; about 2 minutes on 2 cores.

dpojax train --config=experiments/quickstart.py --workdir=runs/quickstart

A decoder of 0.45M parameters learns to write from 25,000 answers by clerks of mixed quality, answers
1,000 letters four times each, and is trained on the 6,000 pairs, labelled by Bradley-Terry draws from
the true reward. What it writes to held-out letters is scored by that reward before and after.

Result: row `quickstart` of experiments/README.md; true reward about 0.6 before and 2.3 after, at a KL of about 4 nats.
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

  config.loss.beta = 0.2
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 20
  config.train.steps = 300
  config.train.log_every = 10

  config.evaluation.every = 100
  config.evaluation.policy_every = 100
  config.evaluation.prompts = 256
  config.evaluation.max_tokens = 48
  return config
