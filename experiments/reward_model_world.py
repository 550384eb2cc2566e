"""A reward model of the built-in complaint desk from draws of its true reward; one CPU, about 10 minutes.

dpojax train --config=experiments/reward_model_world.py --workdir=runs/reward_model_world

`runs/reward_model_world/pairs/pairs.jsonl` holds the pairs with their true rewards, of which `dpojax eval` reports the
correlation; pairs to judge it by are those of another run with --config.pairs.pairs.seed=1.

Result: section `reward_model_world` of experiments/README.md.
"""

from dpojax.config import stages


def get_config():
  config = stages(sft="sft", pairs="pairs", reward_model="reward_model")

  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.data.eval_fraction = 0.1

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
  pairs.pairs.prompts = 8000
  pairs.pairs.samples = 4
  pairs.pairs.max_tokens = 48

  reward_model = config.reward_model
  reward_model.model.path = "stage:sft"
  reward_model.data.path = "stage:pairs"
  reward_model.batch.size = 64
  reward_model.optimizer.learning_rate = 5e-4
  reward_model.optimizer.warmup_steps = 20
  reward_model.train.epochs = 1.0
  reward_model.train.log_every = 10
  reward_model.evaluation.every = 50
  return config
