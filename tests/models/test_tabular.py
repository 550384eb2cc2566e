"""The policy over arms is scored by the code that scores a decoder: against NumPy."""

import jax
import numpy as np
import pytest

from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.errors import ShapeError
from dpojax.models.tabular import TabularModel

LOGITS = np.array([0.3, -1.2, 2.0, 0.4, -0.1])
OTHER = np.array([1.0, 0.2, -0.7, 0.0, 0.5])
FEATURES = np.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0], [-1.0, 0.3], [0.2, 0.2]])
ARMS = [(4, 2), (0, 0), (1, 3)]


def rows():
  """Three examples of two arms in rows of two, so that some slots are empty."""
  examples = [
    TokenExample(np.zeros(1, np.int32), tuple(np.array([[a], [b]], np.int32)), index=i) for i, (a, b) in enumerate(ARMS)
  ]
  return pack(examples, BatchShape(groups=1, rows=2, length=6, scored=5, examples=2, answers=2)).group(0)


def log_softmax(logits):
  return logits - np.log(np.sum(np.exp(logits)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_are_those_of_softmax(dtype):
  with jax.enable_x64(dtype == np.float64):
    model, batch, close = TabularModel.of(5), rows(), dict(rtol=0, atol=20 * np.finfo(dtype).eps)
    params, other = {"logits": LOGITS.astype(dtype)}, {"logits": OTHER.astype(dtype)}
    found = model.compare(params, other, batch, dtype(0.5))
    p, q = (log_softmax(logits / 0.5) for logits in (LOGITS, OTHER))
    expected = np.exp(p) @ (p - q), -np.exp(p) @ p
    filled, target = np.asarray(batch.filled), np.asarray(batch.target)
    assert np.sum(filled) == 6 and found.logp.dtype == dtype
    np.testing.assert_allclose(found.logp, np.where(filled, p[target], 0.0), **close)
    np.testing.assert_allclose(found.other_logp, np.where(filled, q[target], 0.0), **close)
    np.testing.assert_allclose(found.kl, np.where(filled, expected[0], 0.0), **close)
    np.testing.assert_allclose(found.entropy, np.where(filled, expected[1], 0.0), **close)
    hidden = model.scored_hidden(params, batch)
    entropy = model.entropy_hidden(params, hidden, batch)
    np.testing.assert_allclose(
      entropy, np.where(filled, -np.exp(log_softmax(LOGITS)) @ log_softmax(LOGITS), 0), **close
    )
    np.testing.assert_allclose(model.log_probs(params, 0.5), p, **close)


def test_features_make_the_logits():
  model, theta = TabularModel.of(5, FEATURES), np.array([0.7, -0.4], np.float32)
  np.testing.assert_allclose(model.log_probs({"theta": theta}), log_softmax(FEATURES @ theta), atol=1e-6)


@pytest.mark.parametrize("features, name, size", [(None, "logits", 5), (FEATURES, "theta", 2)])
def test_it_begins_where_all_arms_are_alike(features, name, size):
  model = TabularModel.of(5, features)
  params = model.init(jax.random.key(0))
  assert {key: value.shape for key, value in params.items()} == {name: (size,)}
  np.testing.assert_allclose(model.log_probs(params), -np.log(5), rtol=1e-6)


def test_equal_models_share_a_program_and_others_do_not():
  assert TabularModel.of(5) == TabularModel.of(5) and hash(TabularModel.of(5)) == hash(TabularModel.of(5))
  assert TabularModel.of(5, FEATURES) == TabularModel.of(5, FEATURES.tolist())
  assert TabularModel.of(5, FEATURES) != TabularModel.of(5, 2 * FEATURES)


@pytest.mark.parametrize("features", [FEATURES[:4], FEATURES[:, 0]])
def test_features_of_other_arms_are_refused(features):
  with pytest.raises(ShapeError, match=r"\[5, F\], got"):
    TabularModel.of(5, features)
