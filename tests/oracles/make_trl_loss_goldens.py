"""Golden values and gradients of every preference and reward loss of TRL 1.16, computed by TRL's own code.

python tests/oracles/make_trl_loss_goldens.py

Writes goldens/trl_losses.json.gz; README.md says what is in it. The trainers' loss methods are driven with
prescribed log-probs (trl_rig.py) in float64. Where TRL itself computes in float32 there are two records: as it is,
and with that cast undone, so that the formula can be compared to 1e-12 as well.
"""

import contextlib
import gzip
import importlib.metadata
import json
import math
from pathlib import Path

import torch
import trl_rig as rig
from loss_cases import make_datasets

OUT = Path(__file__).parent / "goldens" / "trl_losses.json.gz"

# Our name of a loss of DPOTrainer: its loss_type, options beside beta.
DPO_LOSSES = {
  "dpo": ("sigmoid", {}),
  "robust_dpo": ("robust", dict(label_smoothing=0.1)),
  "ipo": ("ipo", {}),
  "hinge": ("hinge", {}),
  "dpo_norm": ("sigmoid_norm", {}),
  "exo_pair": ("exo_pair", dict(label_smoothing=1e-3)),
  "nca_pair": ("nca_pair", {}),
  "bco_pair": ("bco_pair", {}),
  "sppo_hard": ("sppo_hard", {}),
  "aot": ("aot", dict(label_smoothing=0.1)),
  "aot_unpaired": ("aot_unpaired", dict(label_smoothing=0.1)),
  "apo_zero": ("apo_zero", {}),
  "apo_down": ("apo_down", {}),
  "discopop": ("discopop", dict(tau=0.05)),
  "sft": ("sft", {}),
}
COUPLED = {"aot", "aot_unpaired", "sft"}  # no value of one pair's own
# TRL refuses WPO with AOT. With hinge its in-place product breaks the backward pass, with sft the forward pass.
NO_WPO = ("aot", "aot_unpaired", "hinge", "sft")
WITH_DIVERGENCE = ("dpo", "dpo_norm", "hinge", "ipo", "exo_pair", "robust_dpo", "discopop")
NAMES = dict(tau="discopop_tau", f_divergence="f_divergence_type", f_alpha="f_alpha_divergence_coef")


def finite(x):
  """NaN and infinity have no place in JSON: None."""
  if isinstance(x, list):
    return [finite(y) for y in x]
  return x if math.isfinite(x) else None


def triple(model, data, pick=slice(None)):
  """(prompts, chosen, rejected) of the pairs in `pick`; log-probs of the prompts are the policy's."""
  return [data["policy"]["prompt"][pick], data[model]["chosen"][pick], data[model]["rejected"][pick]]


def dpo_record(datasets, data_name, names, options, weights=None, modifiers=None, precision="float64"):
  """A record of DPOTrainer, for one loss or a weighted sum of several with the same options."""
  data, modifiers = datasets[data_name], modifiers or {}
  attributes = {NAMES.get(name, name): value for name, value in options.items()}
  attributes.update(loss_types=[DPO_LOSSES[name][0] for name in names], loss_weights=weights)
  attributes.update(ld_alpha=modifiers.get("ld_alpha"), use_weighting=modifiers.get("wpo", False))

  def run(pick):
    squares = None
    if modifiers.get("wpo"):
      squares = [data["policy"][f"{side}_log_sum_sq"][pick] for side in ("chosen", "rejected")]
    dtype = torch.float32 if precision == "float32" else torch.float64
    with rig.all_in_float64() if precision == "float64" else contextlib.nullcontext():
      return rig.dpo(
        triple("policy", data, pick), triple("reference", data, pick), log_sum_sq=squares, dtype=dtype, **attributes
      )[:2]

  loss, rows = run(slice(None))
  loss.backward()
  gradients, pairs = rows.gradients(), len(data["policy"]["chosen"])
  values = None
  if not COUPLED & set(names):
    values = finite([run(slice(i, i + 1))[0].item() for i in range(pairs)])
  terms = [[name, {} if name == "sft" else options] for name in names]
  record = dict(trainer="DPOTrainer", loss=names[0], options=terms[0][1])
  if weights:
    record.update(loss="sum", options={}, terms=[[w, *term] for w, term in zip(weights, terms, strict=True)])
  return dict(
    **record,
    modifiers=modifiers,
    data=data_name,
    precision=precision,
    value=values,
    loss_mean=finite(loss.item()),
    gradient_chosen=finite(gradients[:pairs]),
    gradient_rejected=finite(gradients[pairs:]),
  )


def dpo_records(datasets):
  def one(name, data, beta, modifiers=None, precision="float64", **options):
    return dpo_record(
      datasets, data, [name], dict(beta=beta, **DPO_LOSSES[name][1], **options), None, modifiers, precision
    )

  for name in DPO_LOSSES:
    for data, beta in (("ordinary", 0.1), ("ordinary", 0.5), ("equal", 0.1), ("large", 0.1)):
      if name != "sft" or (data, beta) == ("ordinary", 0.1):
        yield one(name, data, beta)
    if name not in NO_WPO:
      yield one(name, "vocabulary", 0.3, dict(wpo=True))
  yield one("exo_pair", "ordinary", 0.5, precision="epsilon in float32")
  for name in WITH_DIVERGENCE:
    yield one(name, "ordinary", 0.3, f_divergence="forward_kl")
    yield one(name, "ordinary", 0.3, f_divergence="js_divergence")
    yield one(name, "ordinary", 0.3, f_divergence="alpha_divergence", f_alpha=0.5)
  yield one("dpo", "ordinary", 0.3, f_divergence="alpha_divergence", f_alpha=2.0)
  yield one("dpo", "ordinary", 0.3, f_divergence="alpha_divergence", f_alpha=1.0)
  yield one("dpo", "ordinary", 0.3, f_divergence="alpha_divergence", f_alpha=0.5, precision="float32")
  for divergence in ("js_divergence", "alpha_divergence"):
    yield one("dpo", "large", 0.1, f_divergence=divergence)
  for name in ("dpo", "ipo", "dpo_norm", "nca_pair", "aot", "aot_unpaired", "sft"):
    for alpha in (0.0, 0.5):
      yield one(name, "ordinary", 0.3, dict(ld_alpha=alpha))
  yield one("dpo", "ordinary", 0.3, dict(ld_alpha=0.25), f_divergence="js_divergence")
  yield one("dpo", "vocabulary", 0.3, dict(ld_alpha=0.25, wpo=True))
  for modifiers in ({}, dict(ld_alpha=0.5)):
    yield dpo_record(datasets, "ordinary", ["dpo", "sft"], dict(beta=0.1), [1.0, 0.2], modifiers)
    yield dpo_record(datasets, "ordinary", ["dpo", "bco_pair", "sft"], dict(beta=0.1), [0.8, 0.2, 1.0], modifiers)
  yield dpo_record(datasets, "vocabulary", ["dpo", "bco_pair"], dict(beta=0.1), [0.8, 0.2], dict(wpo=True))


def kto_record(data, name, loss, weights):
  options = dict(beta=0.3, desirable_weight=weights[0], undesirable_weight=weights[1])
  prompts, pairs = data["policy"]["prompt"], len(data["desirable"])

  def run(pick=None):
    """The whole batch; or one answer of it only, repeated, beside all mismatched ones, from which z comes."""
    at = range(pairs) if pick is None else [pick] * pairs
    models = [(prompts, [data[m]["answer"][i] for i in at], data[m]["mismatched"]) for m in ("policy", "reference")]
    return rig.kto(*models, [data["desirable"][i] for i in at], loss_type=loss, **options)

  total, rows, trainer = run()
  total.backward()
  return dict(
    trainer="KTOTrainer",
    loss=loss,
    options=options,
    modifiers={},
    data=name,
    precision="float64",
    value=[run(i)[0].item() for i in range(pairs)],
    loss_mean=total.item(),
    z=trainer._metrics["train"]["kl"][-1],
    gradient_answer=rows.gradients(),
  )


def kto_records(datasets):
  for loss in ("kto", "apo_zero_unpaired"):
    for name in ("singles", "singles_z_clamped", "singles_equal"):
      for weights in ((1.0, 1.0), (1.0, 1.33)):
        yield kto_record(datasets[name], name, loss, weights)


CPO_LOSSES = (
  ("cpo", dict(beta=0.1, label_smoothing=0.0, alpha=1.0), dict(cpo_alpha=1.0)),
  ("cpo", dict(beta=0.5, label_smoothing=0.1, alpha=0.2), dict(cpo_alpha=0.2)),
  ("cpo", dict(beta=0.5, label_smoothing=0.0, alpha=0.0), dict(cpo_alpha=0.0)),
  ("simpo", dict(beta=2.0, gamma=1.0), dict(loss_type="simpo", cpo_alpha=0.0)),
  ("simpo", dict(beta=0.1, gamma=0.5), dict(loss_type="simpo", cpo_alpha=0.0)),
  ("alphapo", dict(beta=2.0, gamma=1.0, alpha=0.25), dict(loss_type="simpo", cpo_alpha=0.0)),
  ("alphapo", dict(beta=1.0, gamma=0.5, alpha=-0.5), dict(loss_type="simpo", cpo_alpha=0.0)),
)


def reference_free_records(datasets):
  for loss, options, extra in CPO_LOSSES:
    for name in ("ordinary", "large"):
      attributes = {**options, **extra}
      if "gamma" in attributes:
        attributes["simpo_gamma"] = attributes.pop("gamma")
      if loss == "cpo":
        del attributes["alpha"]  # ours weighs the NLL, which TRL calls cpo_alpha
      policy = triple("policy", datasets[name])
      yield reference_free_record(rig.cpo(policy, **attributes), "CPOTrainer", loss, options, name)
  for name in ("ordinary", "large"):
    for beta in (0.1, 1.0):
      policy = triple("policy", datasets[name])
      with rig.all_in_float64():
        yield reference_free_record(rig.orpo(policy, beta=beta), "ORPOTrainer", "orpo", dict(beta=beta), name)
  ran = rig.orpo(triple("policy", datasets["ordinary"]), beta=0.1)
  yield reference_free_record(ran, "ORPOTrainer", "orpo", dict(beta=0.1), "ordinary", "log-odds in float32")


def reference_free_record(ran, trainer, loss, options, data, precision="float64"):
  total, rows, values, nll = ran
  total.backward()
  answers, prompts, pairs = rows.gradients(), rows.gradients(prompt=True), len(values)
  return dict(
    trainer=trainer,
    loss=loss,
    options=options,
    modifiers={},
    data=data,
    precision=precision,
    value=finite(values),
    nll=finite(nll),
    loss_mean=finite(total.item()),
    gradient_chosen=finite(answers[:pairs]),
    gradient_rejected=finite(answers[pairs:]),
    gradient_prompt=finite(prompts[:pairs]),
  )


def tpo_records(datasets):
  for loss, options in (
    ("tpo", dict(beta=0.01, label_smoothing=0.0, alpha=1.0)),
    ("tpo", dict(beta=0.5, label_smoothing=0.1, alpha=0.2)),
    ("tpo_l", dict(beta=0.01, label_smoothing=0.0, gamma=0.5, alpha=1.0)),
    ("tpo_l", dict(beta=2.0, label_smoothing=0.1, gamma=1.5, alpha=0.2)),
  ):
    for name in ("ordinary", "large"):
      data = datasets[name]
      attributes = dict(
        beta=options["beta"], label_smoothing=options["label_smoothing"], loss_type=loss.replace("_", "-")
      )
      attributes.update(tpo_l_gamma=options.get("gamma", 0.5))
      if loss == "tpo":
        attributes["loss_type"] = "sigmoid"
      total, rows = rig.tpo(triple("policy", data), data["policy"]["gold"], tpo_alpha=options["alpha"], **attributes)
      total.backward()
      values = []
      for i in range(len(data["policy"]["chosen"])):
        values.append(rig.tpo(triple("policy", data, slice(i, i + 1)), [], tpo_alpha=0.0, **attributes)[0].item())
      gradients, pairs = rows.gradients(), len(values)
      yield dict(
        trainer="TPOTrainer",
        loss=loss,
        options=options,
        modifiers={},
        data=name,
        precision="float64",
        value=finite(values),
        loss_mean=finite(total.item()),
        gradient_chosen=gradients[:pairs],
        gradient_rejected=gradients[pairs : 2 * pairs],
        gradient_gold=gradients[2 * pairs :],
      )


def reward_record(data, margin, centring):
  def run(pick):
    chosen, rejected, margins = (x and x[pick] for x in (data["chosen"], data["rejected"], margin))
    return rig.reward(chosen, rejected, margins, centring)

  loss, chosen, rejected, metrics = run(slice(None))
  return dict(
    trainer="RewardTrainer",
    loss="bradley_terry",
    options={} if centring is None else dict(centring=centring),
    modifiers={} if margin is None else dict(margin=True),
    data="rewards",
    precision="float64",
    value=[run(slice(i, i + 1))[0] for i in range(len(data["chosen"]))],
    loss_mean=loss,
    gradient_chosen=chosen,
    gradient_rejected=rejected,
    metrics=metrics,
  )


def reward_records(datasets):
  data = datasets["rewards"]
  for margin in (None, data["margin"]):
    for centring in (None, 0.01):
      yield reward_record(data, margin, centring)


def metrics_record(datasets):
  """What DPOTrainer logs for the pairs of `vocabulary`, whose logits go through TRL's own head in float32."""
  data = datasets["vocabulary"]

  def outputs(rows):
    """What the head gives for all answer tokens, chosen answers first, at their places in the rows."""
    tokens = [
      torch.cat(
        [torch.tensor(answer) for side in ("chosen", "rejected") for answer in data["policy"][f"{side}_{what}"]]
      )
      for what in ("logits", "targets")
    ]
    mask = rows.completion_mask[:, 1:] == 1
    head = rig.fused_head(*tokens)
    return {name: torch.zeros(mask.shape, dtype=x.dtype).masked_scatter(mask, x) for name, x in head.items()}

  reference = triple("reference", data)
  *_, trainer = rig.dpo(triple("policy", data), reference, dtype=torch.float32, outputs=outputs, beta=0.3)
  values = {name: x[-1] for name, x in trainer._metrics["train"].items()}
  return dict(trainer="DPOTrainer", options=dict(beta=0.3), data="vocabulary", precision="float32", values=values)


def main() -> None:
  datasets = make_datasets()
  made = (dpo_records, kto_records, reference_free_records, tpo_records, reward_records)
  golden = dict(
    made_by="tests/oracles/make_trl_loss_goldens.py",
    versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl")},
    data=datasets,
    records=[record for records in made for record in records(datasets)],
    metrics=metrics_record(datasets),
  )
  text = json.dumps(golden, allow_nan=False, separators=(",", ":"))
  OUT.write_bytes(gzip.compress(text.encode(), mtime=0))
  print(f"{OUT}: {len(golden['records'])} records, {OUT.stat().st_size} bytes, {len(text)} unpacked")


if __name__ == "__main__":
  main()
