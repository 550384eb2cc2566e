"""Live, cached, moving and none, through the one interface that a stage sees."""

import jax
import numpy as np
import pytest

from dpojax import references
from dpojax.config.schema import BatchSettings, ReferenceSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.errors import ConfigError, WeightsError
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.references import Cached, Live, Moving, NoReference
from dpojax.scoring import score_tokens

MODEL = LanguageModel(
  ModelConfig(vocab_size=23, hidden=16, layers=2, heads=2, kv_heads=1, ffn=24, max_positions=64, eos_ids=(0,))
)


class Said:
  """Keeps what is said to it."""

  def __init__(self):
    self.messages, self.passing = [], []

  def message(self, text):
    self.messages.append(text)

  def status(self, text):
    self.passing.append(text)


def make_params(seed=0):
  return jax.device_get(MODEL.init(jax.random.key(seed)))


def make_batches(n=9, seed=0, size=4) -> Batches:
  draws = np.random.default_rng(seed)
  ids = lambda longest: draws.integers(1, 23, draws.integers(1, longest))  # noqa: E731
  dataset = TokenDataset.from_examples([(ids(9), [ids(7), ids(7)]) for _ in range(n)])
  return Batches(dataset, BatchSettings(size=size, rows=2, row_length=64))


def make_reference(tmp_path, kind="live", needed=True, load=make_params, **settings):
  said = Said()
  settings = ReferenceSettings(kind=kind, **settings)
  made = references.of(settings, model=MODEL, load=load, needed=needed, folder=tmp_path, mesh=None, log=said)
  return made, said


def unread():
  pytest.fail("the parameters were read")


@pytest.mark.parametrize("kind", ["live", "cache", "moving"])
def test_a_loss_without_reference_reads_and_stores_nothing(tmp_path, kind):
  reference, said = make_reference(tmp_path, kind, needed=False, load=unread)
  batches = make_batches()
  assert isinstance(reference, NoReference)
  assert (reference.params, reference.moving, reference.hyper) == ({}, None, {})
  assert reference.attach(batches) is batches and reference.attach(None) is None
  assert list(tmp_path.iterdir()) == [] and said.messages == []


def test_the_kl_without_reference_is_measured_to_what_the_loader_reads():
  params = make_params()
  assert NoReference(lambda: params).full_params() is params
  with pytest.raises(ConfigError, match="no reference to measure KL to"):
    NoReference().full_params()


def test_a_live_reference_is_the_very_arrays(tmp_path):
  params = jax.device_put(make_params())
  reference, _ = make_reference(tmp_path, load=lambda: params)
  batches = make_batches()
  assert isinstance(reference, Live)
  assert reference.params is params and reference.full_params() is params
  assert (reference.moving, reference.hyper) == (None, {})
  assert reference.attach(batches) is batches and reference.attach(None) is None


def test_a_moving_reference_is_part_of_the_state(tmp_path):
  params = make_params()
  reference, _ = make_reference(tmp_path, "moving", load=lambda: params, every=7, mix=0.25)
  batches = make_batches()
  assert isinstance(reference, Moving)
  assert reference.params == {} and reference.moving is params and reference.full_params() is params
  assert reference.hyper == {"reference_every": 7.0, "reference_mix": 0.25}
  assert reference.attach(batches) is batches and reference.attach(None) is None


@pytest.mark.slow
def test_cached_log_probs_are_those_of_the_reference(tmp_path):
  reference, said = make_reference(tmp_path, "cache")
  batches = make_batches()
  assert isinstance(reference, Cached)
  assert (reference.params, reference.moving, reference.hyper) == ({}, None, {})
  assert reference.attach(None) is None and list(tmp_path.iterdir()) == []
  attached = reference.attach(batches)
  assert attached.steps_per_epoch == batches.steps_per_epoch and attached.num_tokens(2) == batches.num_tokens(2)
  expected = score_tokens(MODEL, make_params(), batches.dataset, rows=1, row_length=64)
  for with_reference, plain in [*zip(attached.in_order(), batches.in_order(), strict=True), (attached(5), batches(5))]:
    np.testing.assert_array_equal(with_reference.tokens, plain.tokens)
    assert plain.reference_logp is None
    wanted = np.zeros(plain.target.shape)
    for g, r, s in np.argwhere(plain.filled):
      e, k = divmod(int(plain.answer_of[g, r, s]), 2)
      rank = int((plain.answer_of[g, r, :s] == plain.answer_of[g, r, s]).sum())
      wanted[g, r, s] = expected[int(plain.example_index[g, r, e])][k][rank]
    np.testing.assert_allclose(with_reference.reference_logp, wanted, atol=2e-5)
  assert said.messages == [f"reference log-probs: 18 answers computed, the others read from {attached.cache.folder}"]
  assert said.passing[-1] == "reference log-probs: 18 of 18 answers"
  assert attached.cache.folder.parent == tmp_path / "reference_cache"


@pytest.mark.slow
def test_a_cache_is_shared_by_runs_and_by_data_sets(tmp_path):
  folder = str(tmp_path / "shared")
  train, held_out = make_batches(), make_batches(5, seed=1)
  first, _ = make_reference(tmp_path / "a", "cache", cache_dir=folder)
  first.attach(train)
  again, said = make_reference(tmp_path / "b", "cache", cache_dir=folder)
  attached = [again.attach(train), again.attach(held_out)]
  assert ["18 answers" in text for text in said.messages] == [False, False]
  assert ["0 answers computed" in said.messages[0], "10 answers computed" in said.messages[1]] == [True, True]
  assert all((batch.reference_logp != 0).sum() == batch.filled.sum() for part in attached for batch in part.in_order())
  assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"load": lambda: make_params(1)}, {"precision": "bfloat16"}])
def test_another_reference_or_precision_is_computed_anew(tmp_path, change):
  batches = make_batches()
  make_reference(tmp_path, "cache")[0].attach(batches)
  other, said = make_reference(tmp_path, "cache", **change)
  other.attach(batches)
  assert "18 answers computed" in said.messages[0]


@pytest.mark.slow
def test_parameters_are_read_once_to_fill_and_not_kept(tmp_path):
  """A run with a cache holds the reference only while something needs it."""
  reads = []

  def load():
    reads.append(1)
    return make_params()

  reference, _ = make_reference(tmp_path, "cache", load=load)
  train, held_out = make_batches(), make_batches(5, seed=1)
  reference.attach(train)
  assert len(reads) == 1
  reference.attach(train)
  assert len(reads) == 1
  reference.attach(held_out)
  assert len(reads) == 2
  reference.full_params()
  reference.full_params()
  assert len(reads) == 4


def test_a_reference_whose_log_probs_are_not_finite_is_named(tmp_path):
  params = make_params()
  broken = params | {"embed": np.full_like(params["embed"], np.nan)}
  reference, _ = make_reference(tmp_path, "cache", load=lambda: broken)
  with pytest.raises(WeightsError, match="example 0: the reference model gives a log-prob that is not finite"):
    reference.attach(make_batches())


def test_all_of_them_answer_to_the_interface(tmp_path):
  """What a stage reads of a reference, of whatever kind."""
  for kind, needed in (("live", True), ("cache", True), ("moving", True), ("live", False)):
    reference, _ = make_reference(tmp_path, kind, needed=needed)
    whole = jax.tree.leaves(reference.full_params())
    assert all(np.array_equal(a, b) for a, b in zip(whole, jax.tree.leaves(make_params()), strict=True))
    assert (reference.params == {}) == (not (needed and kind == "live"))
