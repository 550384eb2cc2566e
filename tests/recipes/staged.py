"""A whole experiment made tiny: SFT, pairs and DPO on the built-in world in a few seconds."""

from dpojax.config.load import load_experiment

TINY = {
  "model.hidden": 16,
  "model.ffn": 32,
  "model.layers": 1,
  "batch.size": 8,
  "batch.rows": 2,
  "sft.train.steps": 3,
  "sft.data.texts": 40,
  "sft.optimizer.warmup_steps": 1,
  "pairs.pairs.prompts": 8,
  "pairs.pairs.max_tokens": 16,
  "dpo.train.steps": 3,
  "dpo.optimizer.warmup_steps": 1,
  "dpo.monitor.prompts": 4,
  "dpo.monitor.max_tokens": 16,
  "dpo.evaluation.every": 0,
  "dpo.monitor.every": 0,
  "logging.plots": False,
}


def tiny(**values):
  """The quickstart, made tiny; further settings as `dpo__loss__beta=0.5`."""
  changed = {key.replace("__", "."): value for key, value in values.items()}
  return load_experiment("experiments/quickstart.py", values=TINY | changed)
