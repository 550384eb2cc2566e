"""A reward model of the built-in complaint desk from draws of its true reward; one CPU, about 10 minutes.

dpojax train --config=experiments/reward_model_world.py --workdir=runs/reward_model_world

`runs/reward_model_world/pairs/pairs.jsonl` holds the pairs with their true rewards, of which `dpojax eval` reports the
correlation; pairs to judge it by are those of another run with --config.pairs.seed=1.

Result: section `reward_model_world` of experiments/README.md.
"""

from dpojax.config import base


def get_config():
  config = base()
  config.objective = "reward_model"

  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.data.eval_fraction = 0.1

  config.model.hidden = 128
  config.model.layers = 2
  config.model.heads = 4
  config.model.kv_heads = 4
  config.model.ffn = 384
  config.model.remat = "none"

  config.batch.size = 64
  config.batch.rows = 5
  config.batch.row_length = 256

  config.sft.steps = 800
  config.sft.batch_size = 32
  config.sft.learning_rate = 4e-3
  config.sft.texts = 25_000

  config.pairs.prompts = 8000
  config.pairs.samples = 4

  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 20
  config.train.epochs = 1.0
  config.train.log_every = 10

  config.evaluation.every = 50
  config.evaluation.max_tokens = 48
  return config
