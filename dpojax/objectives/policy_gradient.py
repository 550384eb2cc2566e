"""Policy gradients on the packed rows of a roll-out: clipped policy loss, clipped value loss, KL and entropy."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from dpojax.losses.policy_gradient import LARGEST_LOG_RATIO, clipped_policy_loss, clipped_value_loss, kl_k3, log_ratio
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import RewardModel
from dpojax.objectives import Objective
from dpojax.types import Array, Declared, Metrics, PackedBatch, Params, floats_as, sum_by_answer

Reduction = Literal["token", "answer", "sequence", "constant"]
POLICY, CRITIC = "policy", "critic"  # the models that are trained
# Statistics that go from step to step; the last is the setting that the two before it began from, 0 where none did.
STOPPED, KL_COEF, NEXT_KL_COEF, BEGUN_KL_COEF = "stopped", "kl_coef", "next_kl_coef", "begun_kl_coef"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyOutput:
  """What policy and critic say at the scored slots: arrays [R, S], 0 in empty slots; or None.

  Attributes:
    logp: log-probs of the tokens that were drawn, at the temperature of sampling, in nats.
    entropy: of the next-token distributions, in nats; it carries a gradient where the objective wants one.
    value: what the critic expects.
    reference_logp: as `logp`, of the reference; None where no reference parameters were given.
  """

  logp: jax.Array
  entropy: jax.Array
  value: jax.Array | None
  reference_logp: jax.Array | None


@dataclasses.dataclass(frozen=True)
class PolicyGradient(Objective):
  """Any of PPO, RLOO, GRPO and REINFORCE: they differ in the advantages that a roll-out brings along, and by options.

  Trained parameters are {"policy": ...} and, with a critic, "critic": those of a `RewardModel` of one head, or its head
  alone where it shares the policy's decoder. `hyper` holds clip, dual_clip, value_clip, value_coef, entropy_coef and
  update_kl_limit; the state holds kl_coef and stopped (1 once a step of this roll-out was not taken).

  Attributes:
    model: the policy.
    critic: gives values, or None.
    shared: the critic reads the policy's hidden states.
    temperature: of sampling; logits are divided by it.
    reduction: what divides the sum over tokens: "token" their number, "answer" the answer's number and then that of
      answers, "sequence" the number of answers, "constant" that of answers times `longest`.
    longest: most tokens of an answer.
    kl_loss: whether kl_coef * k3 is part of the loss; the batch carries `reference_logp` then.
    entropy_bonus: whether entropy is part of the loss.
  """

  model: LanguageModel
  critic: RewardModel | None = None
  shared: bool = False
  temperature: float = 1.0
  reduction: Reduction = "token"
  longest: int = 1
  kl_loss: bool = False
  entropy_bonus: bool = False

  @property
  def parameters(self) -> Declared:
    declared = {"policy": self.model.parameters}
    if self.critic is not None:
      critic = self.critic.parameters
      declared["critic"] = {"score": critic["score"]} if self.shared else critic
    return declared

  @property
  def running(self) -> dict[str, float]:
    return {KL_COEF: 0.0, NEXT_KL_COEF: 0.0, BEGUN_KL_COEF: 0.0, STOPPED: 0.0}

  def policy(self, params: Params) -> Params:
    return params[POLICY]

  def normalizers(self, batch: PackedBatch) -> dict[str, jax.Array]:
    filled = batch.filled
    tokens = jnp.sum(filled, dtype=jnp.float32)
    answers = jnp.sum(jnp.asarray(batch.answer_end) > 0, dtype=jnp.float32)
    return {"tokens": jnp.maximum(tokens, 1.0), "answers": jnp.maximum(answers, 1.0)}

  def forward(self, params: Params, reference_params: Params, rows: PackedBatch) -> PolicyOutput:
    policy = params[POLICY]
    hidden = self.model.scored_hidden(policy, rows)
    # A head without bias: dividing what it reads divides the logits.
    cooled = hidden / self.temperature
    scored = self.model.score_hidden(policy, cooled, rows)
    entropy = self.model.entropy_hidden(policy, cooled, rows) if self.entropy_bonus else scored.entropy
    value, reference_logp = None, None
    if self.critic is not None:
      read = hidden if self.shared else self.critic.scored_hidden(params[CRITIC], rows)
      value = self.critic.values(params[CRITIC], read)  # a head without bias reads 0 in empty slots
    if jax.tree.leaves(reference_params):
      reference_hidden = self.model.scored_hidden(reference_params, rows) / self.temperature
      reference_logp = self.model.score_hidden(reference_params, reference_hidden, rows).logp
      reference_logp = jax.lax.stop_gradient(reference_logp)
    return PolicyOutput(scored.logp, entropy, value, reference_logp)

  def loss(self, outputs: PolicyOutput, rows: PackedBatch, normalizers: dict, hyper: dict) -> tuple[jax.Array, Metrics]:
    # Counts and options come in float32 whatever the parameters are.
    rows, normalizers, hyper = floats_as(outputs.logp.dtype, (rows, normalizers, dict(hyper)))
    behaviour, advantage = _present(rows.behaviour_logp), _present(rows.advantage)
    filled, clip = rows.filled, hyper["clip"]
    weights = self._weights(rows, normalizers)
    per_token = clipped_policy_loss(outputs.logp, behaviour, advantage, clip=clip, dual_clip=hyper["dual_clip"])
    policy_loss = jnp.sum(jnp.where(filled, per_token, 0.0) * weights)
    loss = policy_loss

    moved = jnp.where(filled, log_ratio(outputs.logp, behaviour), 0.0)
    ratio = jnp.where(filled, jnp.exp(moved), 0.0)
    tokens = jnp.sum(filled, dtype=ratio.dtype)
    here = jnp.asarray(rows.answer_end) > 0
    of_answers = jnp.clip(sum_by_answer(moved, rows.answer_of, rows.num_answers), -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    weight, answers = jnp.where(here, jnp.exp(of_answers), 0.0), jnp.sum(here, dtype=ratio.dtype)
    part = tokens / normalizers["tokens"]  # parts of a step's loss add up to it, and these to 1

    def fraction(where) -> tuple[jax.Array, jax.Array]:
      return jnp.sum(filled & where, dtype=ratio.dtype), tokens

    metrics: Metrics = {
      "policy/loss": (policy_loss, part),
      "policy/approx_kl": (0.5 * jnp.sum(jnp.square(moved)), tokens),
      "policy/clip_fraction": fraction(jnp.abs(ratio - 1) > clip),
      "policy/ratio": (jnp.sum(ratio), tokens),
      "policy/ratio_square": (jnp.sum(jnp.square(ratio)), tokens),
      # About 1, which is the ratio's mean under the policy that wrote the tokens.
      "policy/ratio_variance": (jnp.sum(jnp.where(filled, jnp.square(ratio - 1), 0.0)), tokens),
      # Of whole answers: products over their tokens. (mean)^2 / mean of squares is the fraction of samples that still count.
      "policy/answer_ratio": (jnp.sum(weight), answers),
      "policy/answer_ratio_square": (jnp.sum(jnp.square(weight)), answers),
      "policy/entropy": (jnp.sum(jnp.where(filled, outputs.entropy, 0.0)), tokens),
    }
    if self.kl_loss:
      k3 = jnp.where(filled, kl_k3(outputs.logp, _present(rows.reference_logp)), 0.0)
      loss = loss + hyper[KL_COEF] * jnp.sum(k3 * weights)
      metrics["policy/kl_loss"] = (jnp.sum(k3), tokens)
    if self.entropy_bonus:
      loss = loss - hyper["entropy_coef"] * jnp.sum(jnp.where(filled, outputs.entropy, 0.0) * weights)
    if outputs.value is not None:
      old, target = _present(rows.old_value), _present(rows.value_target)
      errors = jnp.where(filled, clipped_value_loss(outputs.value, old, target, clip=hyper["value_clip"]), 0.0)
      loss = loss + hyper["value_coef"] * jnp.sum(errors) / normalizers["tokens"]
      metrics["value/loss"] = (jnp.sum(errors), tokens)
      metrics["value/clip_fraction"] = fraction(jnp.abs(outputs.value - old) > hyper["value_clip"])
    metrics["loss"] = (loss, part)
    return loss, jax.lax.stop_gradient(metrics)

  def settle(
    self, metrics: Metrics, running: dict[str, jax.Array], hyper: dict
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A step is taken until the policy has moved too far from the one that wrote the roll-out."""
    square, tokens = metrics["policy/approx_kl"]
    limit = jnp.asarray(hyper["update_kl_limit"], square.dtype)
    beyond = (limit > 0) & (square > limit * tokens)
    stopped = jnp.maximum(running[STOPPED], beyond.astype(running[STOPPED].dtype))
    return stopped == 0, {STOPPED: stopped}

  def _weights(self, rows: PackedBatch, normalizers: dict) -> jax.Array:
    """[R, S]: what each token's loss is multiplied with; over all tokens of a step they are the reduction."""
    filled = rows.filled.astype(normalizers["tokens"].dtype)
    if self.reduction == "token":
      return filled / normalizers["tokens"]
    if self.reduction == "sequence":
      return filled / normalizers["answers"]
    if self.reduction == "constant":
      return filled / (normalizers["answers"] * self.longest)
    lengths = jnp.maximum(sum_by_answer(filled, rows.answer_of, rows.num_answers), 1.0)
    slot = jnp.minimum(jnp.asarray(rows.answer_of), rows.num_answers - 1)
    return filled / jnp.take_along_axis(lengths, slot, axis=-1) / normalizers["answers"]


def _present(array: Array | None) -> jax.Array:
  if array is None:
    raise ValueError(
      "the batch is not of a roll-out: behaviour_logp, advantage and what else the loss reads are missing"
    )
  return jnp.asarray(array)
