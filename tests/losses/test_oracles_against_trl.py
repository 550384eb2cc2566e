"""The oracles against TRL 1.16: values and gradients, record by record of goldens/trl_losses.json.gz.

So the formulas that users will compare with TRL are TRL's. What holds dpojax's own functions to them is elsewhere.
"""

import dataclasses
import gzip
import json
import pathlib

import numpy as np
import pytest
from oracle_parts import Pairs, Singles, desensitised, gradients, token_means, weighted_mean, wpo_weights
from oracles import ORACLES, kto_z
from reward_oracles import Rewards, bradley_terry

GOLDEN = pathlib.Path(__file__).parents[1] / "oracles" / "goldens" / "trl_losses.json.gz"
TRL = json.loads(gzip.decompress(GOLDEN.read_bytes()))
# What TRL's own float32 leaves of the agreement. It makes log(1 - eps) and log(eps) in float32; it casts mean
# log-probs to float32 before the log-odds; it raises KeyError for the alpha divergence in float64, so that this record
# is float32 throughout. Each is there in float64 too, with the cast undone.
TOLERANCE = {"float64": 1e-12, "epsilon in float32": 1e-7, "log-odds in float32": 1e-6, "float32": 1e-5}
# Where TRL's result is NaN or infinite and the exact one is not: it multiplies exp(-x) by a modulation that is 0,
# and takes a probability before its power.
OVERFLOWS_IN_TRL = {("discopop", "large"), ("alphapo", "large")}


def label(record):
  options = [f"{name}={value}" for name, value in {**record["options"], **record["modifiers"]}.items()]
  return "-".join([record["loss"], record["data"], *options, record["precision"].replace(" ", "_")])


def models(record):
  """(policy, reference) as the oracles read them."""
  data = TRL["data"][record["data"]]
  if record["trainer"] == "RewardTrainer":
    return Rewards(
      data["chosen"], data["rejected"], data["margin"] if record["modifiers"].get("margin") else None
    ), None
  kind, fields = (Singles, dict(desirable=data["desirable"])) if "desirable" in data else (Pairs, {})
  known = {field.name for field in dataclasses.fields(kind)}
  return tuple(kind(**{k: v for k, v in data[m].items() if k in known}, **fields) for m in ("policy", "reference"))


def oracle(record, policy, reference):
  """The oracle's value of every pair (or rank, or answer)."""
  if record["loss"] == "bradley_terry":
    return np.array(bradley_terry(policy, **record["options"]))
  alpha, total = record["modifiers"].get("ld_alpha"), 0.0
  for weight, name, options in record.get("terms", [[1.0, record["loss"], record["options"]]]):
    changed = [policy, reference]
    if alpha is not None and name != "sft":
      changed = [desensitised(model, alpha) for model in changed]
    total = total + weight * np.array(ORACLES[name](*changed, **options))
  return total * np.array(wpo_weights(policy)) if record["modifiers"].get("wpo") else total


def likelihood(record, policy):
  """The likelihood term that a reference-free loss adds; TRL gives the values of its pairs without it."""
  if record["loss"] == "orpo":
    return np.array(token_means([[*p, *y] for p, y in zip(policy.prompt, policy.chosen, strict=True)]))
  if record["loss"] in ("cpo", "tpo", "tpo_l"):
    return record["options"]["alpha"] * np.array(token_means(policy.chosen if record["loss"] == "cpo" else policy.gold))
  return 0.0


@pytest.fixture(params=TRL["records"], ids=label, scope="module")
def record(request):
  return request.param


def close(record, got, want):
  """Compares nested lists; an entry that TRL could not represent is None and must be finite here."""
  got, want = (np.array([z for y in x for z in (y if isinstance(y, list) else [y])], float) for x in (got, want))
  if (record["loss"], record["data"]) in OVERFLOWS_IN_TRL:
    assert np.isfinite(got).all()
    want = np.where(np.isnan(want), got, want)
  tolerance = TOLERANCE[record["precision"]]
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_values(record):
  policy, reference = models(record)
  got = oracle(record, policy, reference)
  close(record, [weighted_mean(got)], [record["loss_mean"]])
  if record["value"] is not None:
    close(record, got - likelihood(record, policy), record["value"])


@pytest.mark.slow
def test_gradients(record):
  policy, reference = models(record)

  def mean(model):
    return weighted_mean(list(oracle(record, model, reference)))

  fields = [name.removeprefix("gradient_") for name in record if name.startswith("gradient_")]
  assert fields
  for field in fields:
    if record["loss"] == "orpo" or getattr(policy, field) is not None:
      close(record, gradients(mean, policy, field), record[f"gradient_{field}"])


def test_z_of_kto(record):
  if "z" in record:
    want = kto_z(*models(record)) if record["loss"] == "kto" else 0.0
    np.testing.assert_allclose(record["z"], want, rtol=1e-12)
