"""Checks of the loss: that every option set is read by somebody, and that loss, reference and data go together."""

import dataclasses

from dpojax.config.keys import not_a_choice
from dpojax.config.schema import LossSettings, RunConfig
from dpojax.errors import ConfigError
from dpojax.losses import LOSSES, get_loss, loss_options
from dpojax.losses.foreign_names import explained_loss
from dpojax.losses.spec import Term
from dpojax.types import Answers


def check_losses(config: RunConfig) -> None:
  """Raises ConfigError for a loss that cannot be computed as asked, or an option that nothing would read."""
  loss, name = config.loss, config.loss.name
  if name.isidentifier() and name not in (*LOSSES, "auto"):
    raise not_a_choice("loss.name", name, sorted(LOSSES), explained_loss(name, LOSSES))
  spec = config.loss_spec
  terms = spec.terms
  if config.recipe == "reward_model":
    fitting = ", ".join(name for name in sorted(LOSSES) if get_loss(name).of_rewards)
    _require(spec.of_rewards, f"loss.name={terms[0].name} is no loss of a reward model; choose one of {fitting}")
  else:
    _require(not spec.of_rewards, f"loss.name={terms[0].name} trains reward models; set recipe=reward_model")
  _check_pairs_are_made(config, terms)
  _check_reward_settings(config, terms)
  _check_options_are_read(loss, terms)
  _check_modifiers(config, terms)
  _check_reference(config, terms)


def _require(holds: bool, message: str) -> None:
  if not holds:
    raise ConfigError(message)


def _listed(terms: tuple[Term, ...]) -> str:
  return "+".join(term.name for term in terms)


def _check_pairs_are_made(config: RunConfig, terms: tuple[Term, ...]) -> None:
  """A stage that writes its own data makes pairs, and it alone can say which answer of each the reference wrote."""
  spec = config.loss_spec
  if config.recipe == "online":
    fitting = ", ".join(
      name for name in sorted(LOSSES) if get_loss(name).answers is Answers.PAIR and not get_loss(name).of_rewards
    )
    _require(
      spec.answers is Answers.PAIR,
      f"loss.name={_listed(terms)} does not learn from pairs, and recipe=online makes nothing else; choose one of {fitting}",
    )
  if spec.reads("opponent"):
    name = next(term.name for term in terms if "opponent" in get_loss(term.name).reads)
    _require(
      config.recipe == "online",
      f"loss.name={name} compares an answer of the policy with one of the reference, and no data say which is which; set "
      "recipe=online and online.opponent=reference",
    )
    _require(
      config.online.opponent == "reference",
      f"loss.name={name} compares an answer of the policy with one of the reference, but under online.opponent=policy the "
      "policy writes both; set online.opponent=reference",
    )


def _check_reward_settings(config: RunConfig, terms: tuple[Term, ...]) -> None:
  reward = config.reward
  if config.recipe != "reward_model":
    for field in dataclasses.fields(reward):
      _require(
        getattr(reward, field.name) == field.default,
        f"reward.{field.name} is set, but recipe={config.recipe} trains no reward model",
      )
    return
  _require(len(terms) == 1 and terms[0].weight == 1, "loss.name: a reward model is trained by one loss, not by a sum")
  _require(
    not reward.bootstrap or reward.heads > 1,
    "reward.bootstrap is set, but reward.heads=1 has nothing to disagree with; set reward.heads",
  )


def _check_options_are_read(loss: LossSettings, terms: tuple[Term, ...]) -> None:
  for field in dataclasses.fields(loss):
    value = getattr(loss, field.name)
    if field.default is not None or value is None or field.name == "beta":  # beta scales the reported rewards anyhow
      continue
    users = [name for name in sorted(LOSSES) if field.name in loss_options(name)]
    _require(
      any(term.name in users for term in terms),
      f"loss.{field.name} is {value:g}, but loss.name={_listed(terms)} ignores it; leave it out or use one of "
      f"{', '.join(users)}",
    )


def _check_modifiers(config: RunConfig, terms: tuple[Term, ...]) -> None:
  loss, names = config.loss, _listed(terms)

  def needs(key: str, set_to, fits, why: str) -> None:
    """Requires of the setting `key`, where it is set, that some term fits."""
    if set_to:
      users = ", ".join(name for name in sorted(LOSSES) if fits(name))
      _require(
        any(fits(term.name) for term in terms),
        f"loss.{key} is set, but loss.name={names} {why}; leave it out or use one of {users}",
      )

  divergence = loss.f_divergence != "reverse_kl"
  needs("f_divergence", divergence, lambda n: "f_divergence" in loss_options(n), "does not read it")
  _require(
    loss.f_divergence == "alpha_divergence" or loss.divergence_alpha == 0.5,
    f"loss.divergence_alpha is set, but loss.f_divergence={loss.f_divergence} has no alpha",
  )
  spans = loss.nll_span != "prompt_and_answer"
  needs("nll_span", spans, lambda n: "prompt" in get_loss(n).reads, "has no NLL of the prompt")
  of_pairs = lambda n: get_loss(n).answers is Answers.PAIR and not get_loss(n).of_rewards  # noqa: E731
  with_reference = lambda n: "reference" in get_loss(n).reads and of_pairs(n)  # noqa: E731
  needs(
    "dynamic_beta", loss.dynamic_beta, lambda n: with_reference(n) and "beta" in loss_options(n), "has no beta to move"
  )
  _require(
    loss.dynamic_beta == 0 or all("beta" not in dict(term.options) for term in terms),
    "loss.dynamic_beta moves loss.beta, but a term of loss.name sets a beta of its own; set loss.beta instead",
  )
  needs("margin_scale", loss.margin_scale, lambda n: "margin" in get_loss(n).reads, "has no margin in its logit")
  for key, set_to in (("wpo", loss.wpo), ("ld_alpha", loss.ld_alpha != 1)):
    needs(key, set_to, of_pairs, "does not compare pairs")
  for term in terms:
    _require(
      not (loss.wpo and term.name.startswith("aot")),
      f"loss.wpo weighs single pairs, but {term.name} compares quantiles of the whole batch; set it to False",
    )


def _check_reference(config: RunConfig, terms: tuple[Term, ...]) -> None:
  reference, names = config.reference, _listed(terms)
  if not config.loss_spec.reads("reference"):
    why = f"loss.name={names} reads no reference"
    _require(reference.kind == "live", f"reference.kind={reference.kind} is set, but {why}; leave it at live")
  _require(
    not (config.loss_spec.reads("token_kl") and reference.kind == "cache"),
    f"reference.kind=cache holds the log-probs of single tokens, but loss.name={names} needs the reference's whole "
    "distribution at every token; set reference.kind=live",
  )
