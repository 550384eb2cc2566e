"""The reward-KL frontier: DPO beside PPO and others, from the same SFT model, where the true reward is known.

make frontier                # one seed, into runs/frontier, and its page; SEEDS=8 for claims
dpojax train --config=experiments/frontier.py --workdir=runs/frontier/seed_0 --jobs=2

An analogue of figure 2 (left) of the DPO paper (arXiv 2305.18290, section 6.1) at a size where the truth is known: prompts
are letters to a complaint desk, the reward is exact. All policies start from stage sft. `pairs` has 6 Bradley-Terry labelled
pairs of each of 1,000 letters; the reward model and all of dpo_*, preferred_ft and unlikelihood learn from them, ppo_learned_*
climb the reward model, and ppo_true_*, rloo and online_dpo ask the true reward itself. 16 of the 128 pairs of product and
issue are in no training letter: the last stage asks all policies on them too, and on a word order that none has seen.

Result: section `frontier` of experiments/README.md.
"""

from dpojax.config import stages

BETAS = {"dpo_005": 0.05, "dpo_01": 0.1, "dpo_05": 0.5, "dpo_1": 1.0, "dpo_5": 5.0}
TARGETS = {"2": 2.0, "4": 4.0, "8": 8.0}  # nats an answer


def get_config():
  offline = [*BETAS, "preferred_ft", "unlikelihood"]
  learned, true = ([f"ppo_{reward}_{target}" for target in TARGETS] for reward in ("learned", "true"))
  config = stages(
    sft="sft",
    pairs="pairs",
    reward_model="reward_model",
    **dict.fromkeys([*learned, *true, "rloo"], "policy_gradient"),
    **dict.fromkeys(offline, "preference"),
    online_dpo="online",
    best_of_n="best_of_n",
    comparison="comparison",
  )

  config.data.source = "world"
  config.data.name = "complaint_desk_gaps"
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

  pairs = config.pairs
  pairs.model.path = "stage:sft"
  pairs.pairs.prompts = 1000
  pairs.pairs.samples = 4
  pairs.pairs.max_tokens = 48

  reward_model = config.reward_model
  reward_model.model.path = "stage:sft"
  reward_model.data.path = "stage:pairs"
  reward_model.optimizer.learning_rate = 5e-4
  reward_model.optimizer.warmup_steps = 20
  reward_model.train.steps = 300  # as many as DPO takes of the same pairs
  reward_model.train.log_every = 10

  for name in offline:
    stage = config[name]
    stage.data.path = "stage:pairs"
    stage.loss.name = "dpo" if name in BETAS else name
    if name in BETAS:
      stage.loss.beta = BETAS[name]
    if name == "unlikelihood":
      stage.loss.alpha = 0.1  # at 1 it runs away: 390 nats
    stage.train.steps = 300
    stage.optimizer.warmup_steps = 20
    stage.evaluation.every = 100

  for name in [*learned, *true, "rloo"]:
    stage = config[name]
    stage.policy_gradient.method = "rloo" if name == "rloo" else "ppo"
    stage.policy_gradient.kl_controller = "exponential"
    stage.policy_gradient.kl_coef = 0.1
    stage.policy_gradient.kl_target = 2.0 if name == "rloo" else TARGETS[name.rpartition("_")[2]]
    stage.rollout.reward = "model:stage:reward_model" if name in learned else "true"
    stage.rollout.normalise = True
    stage.train.steps = 24 * 16  # 24 roll-outs of 4 epochs of 4 minibatches
    stage.optimizer.eps = 1e-5

  online_dpo = config.online_dpo
  online_dpo.loss.beta = 0.2
  online_dpo.online.refresh = 8
  online_dpo.train.steps = 300
  online_dpo.optimizer.warmup_steps = 20

  policies = [*offline, *learned, *true, "rloo", "online_dpo"]
  for name in policies:
    stage = config[name]
    stage.model.path = "stage:sft"
    # At 5e-4 the KL of small betas is a matter of the path: of seed 1 8.3 nats at 0.1 and 6.7 at 0.05 (LOG.md).
    stage.optimizer.learning_rate = 2e-4 if name in offline else 5e-4
    stage.train.log_every = 20
    stage.monitor.every = 100
    stage.monitor.rewards = "true,model:stage:reward_model"
    stage.monitor.prompts = 128
    stage.monitor.max_tokens = 48
    stage.stop.kl_budget = 0.0  # the frontier goes beyond it
    if stage.recipe != "preference":
      stage.rollout.samples = 4
      stage.rollout.max_tokens = 48

  best_of_n = config.best_of_n
  best_of_n.model.path = "stage:sft"
  best_of_n.rollout.prompts = 128
  best_of_n.rollout.samples = 64
  best_of_n.rollout.max_tokens = 48
  best_of_n.monitor.rewards = "true,model:stage:reward_model"

  comparison = config.comparison
  comparison.model.path = "stage:sft"
  comparison.comparison.policies = ",".join(f"stage:{name}" for name in policies)
  comparison.comparison.best_of_n = "stage:best_of_n"
  comparison.comparison.oracle = ",".join([*true, "rloo", "dpo_05"])
  comparison.comparison.splits = "held_out,unseen_pair,unseen_order"
  comparison.rollout.prompts = 128
  comparison.rollout.samples = 16
  comparison.rollout.max_tokens = 48
  comparison.monitor.rewards = "true,model:stage:reward_model"
  return config
