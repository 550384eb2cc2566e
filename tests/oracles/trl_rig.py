"""Drives the loss methods of TRL's trainers with prescribed log-probs, without a model or data set.

A trainer is made without its `__init__`, given the attributes that its loss method reads, and a stand-in for the
model that returns what we prescribe. What is computed between the log-probs and the loss, and its gradient, is
TRL's own code. Used by make_trl_loss_goldens.py.
"""

import contextlib
import types
import warnings

import numpy as np
import torch
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.experimental.tpo import TPOTrainer
from trl.trainer import dpo_trainer
from trl.trainer.utils import _ChunkedLogProbFunction

warnings.filterwarnings("ignore")
FILLER = -0.6931471805599453  # log-prob in padding: its value must not matter


def identity(x):
  return x


class StandIn:
  """In the place of a model: answers a call with what `answer` makes of its keyword arguments."""

  training = True
  is_gradient_checkpointing = False

  def __init__(self, answer):
    self.answer = answer

  def __call__(self, *args, **kwargs):
    return self.answer(*args, **kwargs)


def bare(trainer_class, **attributes):
  """A trainer without its `__init__`, on one process."""
  trainer = object.__new__(trainer_class)
  lists = types.SimpleNamespace(train=Lists(), eval=Lists())
  defaults = dict(
    accelerator=types.SimpleNamespace(device=torch.device("cpu"), gather=identity, gather_for_metrics=identity),
    aux_loss_enabled=False,
    ref_model=None,
    is_encoder_decoder=False,
    _metrics=dict(train=lists.train, eval=lists.eval),
    _total_train_tokens=0,
    _tp_size=1,
  )
  for name, value in {**defaults, **attributes}.items():
    setattr(trainer, name, value)
  return trainer


class Lists(dict):
  def __missing__(self, key):
    self[key] = []
    return self[key]


class Rows:
  """Sequences of prompt and answer, padded; the log-probs of their tokens are one leaf of the gradient.

  Attributes:
    leaf: [N, T - 1], where [n, t] is the log-prob of token t + 1 of sequence n.
    completion_mask, attention_mask, input_ids: i64[N, T].
  """

  def __init__(self, prompts, answers, dtype=torch.float64):
    starts = [len(prompt) + 1 for prompt in prompts]  # the first token of a prompt is predicted by nothing
    lengths = [start + len(answer) for start, answer in zip(starts, answers, strict=True)]
    table = np.full((len(answers), max(lengths) - 1), FILLER)
    self.completion_mask = torch.zeros(len(answers), max(lengths), dtype=torch.long)
    self.attention_mask = torch.zeros_like(self.completion_mask)
    self.input_ids = torch.zeros_like(self.completion_mask)
    for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
      table[n, : lengths[n] - 1] = [*prompt, *answer]
      self.completion_mask[n, starts[n] : lengths[n]] = 1
      self.attention_mask[n, : lengths[n]] = 1
    self.starts, self.lengths = starts, lengths
    self.leaf = torch.tensor(table, dtype=dtype, requires_grad=True)

  @property
  def labels(self):
    return torch.where(self.completion_mask == 1, self.input_ids, -100)

  def answers_only(self, values=None):
    """[N, T - 1] of `values` (of the log-probs), 0 outside answers: what TRL's fused head returns."""
    return torch.where(self.completion_mask[:, 1:] == 1, self.leaf if values is None else values, 0.0)

  def logits(self):
    """[N, T, 2] logits under which token 0, which all tokens are, has the prescribed log-probs.

    The other token has the rest of the probability, so that the normaliser is 0 and the gradient with
    respect to the leaf is that with respect to the log-probs.
    """
    x = self.leaf
    rest = torch.where(x < FILLER, torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))
    both = torch.stack([x, rest], -1)
    return torch.cat([both, torch.zeros_like(both[:, :1])], 1)

  def spread(self, answers):
    """[N, T - 1] with one number for every answer token, 0 elsewhere."""
    out = torch.zeros_like(self.leaf)
    for n, answer in enumerate(answers):
      out[n, self.starts[n] - 1 : self.lengths[n] - 1] = torch.tensor(answer, dtype=out.dtype)
    return out.detach()

  def gradients(self, prompt=False):
    """Per answer (or prompt) the gradient with respect to its tokens' log-probs; after `backward`."""
    grad = torch.zeros_like(self.leaf) if self.leaf.grad is None else self.leaf.grad
    spans = [(0, s - 1) if prompt else (s - 1, e - 1) for s, e in zip(self.starts, self.lengths, strict=True)]
    return [grad[n, start:end].tolist() for n, (start, end) in enumerate(spans)]


class DoubleForFloat:
  """torch, but `float32` is float64: for code of TRL's that refuses float64."""

  float32 = torch.float64

  def __getattr__(self, name):
    return getattr(torch, name)


@contextlib.contextmanager
def all_in_float64():
  """TRL's casts to float32, and the constants it makes in float32, become float64."""
  to_float, default = torch.Tensor.float, torch.get_default_dtype()
  torch.Tensor.float, dpo_trainer.torch = torch.Tensor.double, DoubleForFloat()
  torch.set_default_dtype(torch.float64)
  try:
    yield
  finally:
    torch.Tensor.float, dpo_trainer.torch = to_float, torch
    torch.set_default_dtype(default)


def dpo(policy, reference, *, log_sum_sq=None, dtype=torch.float64, outputs=None, **attributes):
  """(loss, rows, trainer) of DPOTrainer. `policy`, `reference`: (prompts, chosen, rejected)."""
  prompts, chosen, rejected = policy
  rows = Rows(prompts * 2, chosen + rejected, dtype)
  frozen = Rows(prompts * 2, reference[1] + reference[2], dtype)
  nothing = torch.zeros_like(rows.leaf.detach())
  answer = dict(log_probs=rows.answers_only(), entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
  if log_sum_sq is not None:
    answer["log_sum_sq_probs"] = rows.spread(log_sum_sq[0] + log_sum_sq[1])
  answer.update(outputs(rows) if outputs else {})
  model = StandIn(lambda **_: types.SimpleNamespace(**answer))
  options = dict(
    loss_types=["sigmoid"],
    loss_weights=None,
    beta=0.1,
    label_smoothing=0.0,
    ld_alpha=None,
    f_divergence_type="reverse_kl",
    f_alpha_divergence_coef=0.5,
    use_weighting=False,
    discopop_tau=0.05,
  )
  options.update(attributes)
  options["loss_weights"] = options["loss_weights"] or [1.0] * len(options["loss_types"])
  args = types.SimpleNamespace(discopop_tau=options.pop("discopop_tau"), gradient_checkpointing_kwargs=None)
  ref_model = StandIn(lambda **_: types.SimpleNamespace(log_probs=frozen.answers_only().detach()))
  trainer = bare(DPOTrainer, model=model, ref_model=ref_model, precompute_ref_logps=False, args=args, **options)
  inputs = {name: getattr(rows, name) for name in ("input_ids", "attention_mask", "completion_mask")}
  return trainer._compute_loss(model, inputs, False), rows, trainer


def kto(policy, reference, desirable, **attributes):
  """(loss, rows, trainer) of KTOTrainer. `policy`, `reference`: (prompts, answers, mismatched answers)."""
  rows, frozen = (Rows(prompts, answers) for prompts, answers, _ in (policy, reference))
  other, other_frozen = (Rows(prompts, answers) for prompts, _, answers in (policy, reference))
  other.input_ids += 1  # by which the stand-in knows what it is asked for

  def standing_in(of_answers, of_mismatched):
    def answer(input_ids, **_):
      asked = of_mismatched if input_ids.max() == 1 else of_answers
      nothing = torch.zeros_like(asked.leaf.detach())
      return types.SimpleNamespace(log_probs=asked.answers_only(), entropy=nothing, mean_logits=nothing)

    return StandIn(answer)

  model = standing_in(rows, other)
  options = dict(beta=0.1, loss_type="kto", desirable_weight=1.0, undesirable_weight=1.0)
  options.update(attributes)
  trainer = bare(
    KTOTrainer,
    model=model,
    ref_model=standing_in(frozen, other_frozen),
    precompute_ref_logps=False,
    calculate_KL=options["loss_type"] == "kto",
    args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
    **options,
  )
  names = ("input_ids", "attention_mask", "completion_mask")
  inputs = {name: getattr(rows, name) for name in names}
  inputs.update({f"KL_{name}": getattr(other, name) for name in names}, label=torch.tensor(desirable))
  return trainer._compute_loss(model, inputs, False), rows, trainer


def reference_free(trainer_class, policy, dtype=torch.float64, **attributes):
  """(loss, rows, per-pair values without the NLL, NLL) of CPOTrainer or ORPOTrainer."""
  prompts, chosen, rejected = policy
  rows, pairs = Rows(prompts * 2, chosen + rejected, dtype), len(chosen)
  model = StandIn(lambda *_, **__: types.SimpleNamespace(logits=rows.logits()))
  trainer = bare(trainer_class, model=model, pad_token_id=0, padding_value=0, **attributes)
  batch = {}
  for side, part in (("chosen", slice(None, pairs)), ("rejected", slice(pairs, None))):
    for name in ("input_ids", "attention_mask", "labels"):
      batch[f"{side}_{name}"] = getattr(rows, name)[part]
  method = "odds_ratio_loss" if trainer_class is ORPOTrainer else "cpo_loss"
  own, seen = getattr(trainer, method), []

  def recording(*args):
    seen.append(own(*args))
    return seen[-1]

  setattr(trainer, method, recording)
  loss, metrics = trainer.get_batch_loss_metrics(model, batch)
  values = seen[0][0].detach()
  return loss, rows, (-values if trainer_class is ORPOTrainer else values).tolist(), metrics["nll_loss"]


def cpo(policy, **attributes):
  options = dict(beta=0.1, label_smoothing=0.0, loss_type="sigmoid", cpo_alpha=1.0, simpo_gamma=0.5, alpha=0.0)
  return reference_free(CPOTrainer, policy, **{**options, **attributes})


def orpo(policy, dtype=torch.float64, **attributes):
  return reference_free(ORPOTrainer, policy, dtype, **{"beta": 0.1, **attributes})


def tpo(policy, gold, **attributes):
  """(loss, rows) of TPOTrainer; the rows are all chosen, all rejected, and all gold ones unless tpo_alpha = 0."""
  prompts, chosen, rejected = policy
  options = dict(beta=0.01, label_smoothing=0.0, loss_type="sigmoid", tpo_alpha=1.0, tpo_l_gamma=0.5)
  options.update(attributes)
  rows = Rows(prompts * 3, chosen + rejected + gold) if options["tpo_alpha"] else Rows(prompts * 2, chosen + rejected)
  model = StandIn(lambda **_: types.SimpleNamespace(logits=rows.logits()))
  trainer = bare(TPOTrainer, model=model, **options)
  inputs = {name: getattr(rows, name) for name in ("input_ids", "attention_mask", "completion_mask")}
  return trainer._compute_loss(model, inputs, False), rows


def reward(chosen, rejected, margin=None, center_rewards_coefficient=None):
  """(loss, gradient of the chosen rewards, gradient of the rejected ones, metrics) of RewardTrainer."""
  leaf = torch.tensor([*chosen, *rejected], dtype=torch.float64, requires_grad=True)
  model = StandIn(lambda **_: types.SimpleNamespace(logits=leaf[:, None]))
  args = types.SimpleNamespace(center_rewards_coefficient=center_rewards_coefficient)
  trainer = bare(RewardTrainer, model=model, args=args)
  inputs = dict(attention_mask=torch.ones(len(leaf), 1, dtype=torch.long))
  if margin is not None:
    inputs["margin"] = torch.tensor(margin, dtype=torch.float64)
  loss = trainer.compute_loss(model, inputs)
  loss.backward()
  metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
  return loss.item(), *leaf.grad.reshape(2, -1).tolist(), metrics


def fused_head(logits, targets):
  """TRL's kernel on [tokens, V] logits, in float32: log-probs, entropy, log sum p^2, mean logits, top-1."""
  weight = torch.eye(logits.shape[-1])
  names = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
  values = _ChunkedLogProbFunction.apply(logits.float(), weight, None, targets, 1.0, 2, None, 1.0, names)
  return dict(zip(("log_probs", *names), values, strict=True))
