"""PPO on the built-in complaint desk: with the true reward at 2 nats an answer, and with a learned one at 8.

dpojax train --config=experiments/ppo_world.py --workdir=runs/ppo_world

Stages sft, pairs and reward_model make what RLHF starts from; `ppo` climbs the true reward, `ppo_learned` the reward
model, whose KL target is wide enough to leave what the reward model has seen. Both report both rewards.

Result: section `ppo_world` of experiments/README.md. `ppo` reaches 90 % of the oracle's gain at its KL (three seeds, 89.9 to
91.1 %); under `ppo_learned` the learned reward goes on rising
whatever the true one does: it misleads in one seed of three, and with 480 comparisons in all three. 10 minutes on two cores.
"""

from dpojax.config import stages


def get_config():
  config = stages(
    sft="sft", pairs="pairs", reward_model="reward_model", ppo="policy_gradient", ppo_learned="policy_gradient"
  )

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

  pairs = config.pairs
  pairs.model.path = "stage:sft"
  pairs.pairs.prompts = 250
  pairs.pairs.samples = 4
  pairs.pairs.max_tokens = 48

  reward_model = config.reward_model
  reward_model.model.path = "stage:sft"
  reward_model.data.path = "stage:pairs"
  reward_model.optimizer.learning_rate = 5e-4
  reward_model.optimizer.warmup_steps = 20
  reward_model.train.log_every = 10

  for stage, reward, target in ((config.ppo, "true", 2.0), (config.ppo_learned, "model:stage:reward_model", 8.0)):
    stage.model.path = "stage:sft"
    stage.rollout.reward = reward
    stage.rollout.samples = 4
    stage.rollout.max_tokens = 48
    stage.rollout.normalise = True
    stage.policy_gradient.kl_controller = "exponential"
    stage.policy_gradient.kl_coef = 0.1
    stage.policy_gradient.kl_target = target
    stage.optimizer.learning_rate = 5e-4
    stage.optimizer.eps = 1e-5
    stage.train.steps = 30 * 16  # 30 roll-outs of 4 epochs of 4 minibatches
    stage.train.log_every = 16
    stage.monitor.every = 120
    stage.monitor.rewards = "true,model:stage:reward_model"
    stage.monitor.prompts = 256
    stage.monitor.max_tokens = 48
    stage.stop.kl_budget = 0.0  # the controller's target stands in for it
  return config
