"""What a stage did, in a few words, from its settings alone."""

from dpojax.config.schema import RunConfig


def method(config: RunConfig) -> str:
  """Its method: "dpo", "ppo", "online dpo", "sft"; of one that trains no policy its recipe."""
  if config.recipe == "preference":
    return config.loss_spec.names[0] if len(config.loss_spec.names) == 1 else config.loss.name
  if config.recipe == "online":
    return f"online {config.loss.name}"
  return config.policy_gradient.method if config.recipe == "policy_gradient" else config.recipe


def in_one_line(config: RunConfig) -> str:
  """What a report's title leaves open: "ppo, KL weight 0.05, reward length; starts from runs/sft"."""
  words = described(config)
  if config.recipe == "online":
    words += f", reward {'true' if config.rollout.reward == 'auto' else config.rollout.reward}"
  return f"{words}; starts from {config.model.path or 'a new model'}"


def described(config: RunConfig) -> str:
  """Its method with what its strength is set by: "dpo, beta 0.1", "ppo, target 2, reward true"."""
  if config.recipe == "policy_gradient":
    settings, reward = config.policy_gradient, config.rollout.reward
    strength = f"KL weight {settings.kl_coef:g}"
    if settings.kl_controller != "fixed":
      strength = f"KL target {settings.kl_target:g}"
    return f"{settings.method}, {strength}, reward {'true' if reward == 'auto' else reward}"
  if config.recipe == "online":
    return f"online {config.loss_spec.describe()}"
  if config.recipe in ("preference", "reward_model"):
    return config.loss_spec.describe()
  return "SFT" if config.recipe == "sft" else method(config)
