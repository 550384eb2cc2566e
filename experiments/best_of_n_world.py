"""Best of N on the built-in complaint desk, chosen by the true reward.

dpojax train --config=experiments/best_of_n_world.py --workdir=runs/best_of_n

The SFT model is that of ppo_world.py. 256 held-out letters, 128 answers to each; one seed (0), mean ± standard error over
letters, KL to the SFT model in nats an answer:

  best of   1             2             4             8             16            32
  reward    0.632 ± 0.014 1.406 ± 0.013 2.023 ± 0.013 2.502 ± 0.012 2.862 ± 0.013 3.136 ± 0.013
  KL        0.000         0.193         0.636         1.204         1.834         2.493

KL is at most 0.004 below log N - (N - 1) / N: the true reward has few ties. 80 seconds of a processor, SFT included
(AMD Zen 5).
"""

from dpojax.config import stages


def get_config():
  config = stages(sft="sft", best="best_of_n")

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
  sft.monitor.prompts = 0

  best = config.best
  best.model.path = "stage:sft"
  best.rollout.prompts = 256
  best.rollout.samples = 128
  best.rollout.max_tokens = 48
  best.best_of_n.counts = "1,2,4,8,16,32"
  return config
