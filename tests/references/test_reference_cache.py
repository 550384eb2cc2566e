"""The reference cache: what it serves, what it must never serve, and what it survives."""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.config.schema import BatchSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.data.packing import BatchShape, pack
from dpojax.errors import DataError, WeightsError
from dpojax.references import weights_fingerprint
from dpojax.references.record_store import SUFFIX
from dpojax.references.reference_cache import ReferenceCache

MODEL = dict(weights="w", config={"layers": 2, "rope_theta": 1e4}, precision="float32")
SHAPE = BatchShape(groups=2, rows=2, length=64, scored=40, examples=6, answers=3)


def token_logp(prompt, answer, t) -> np.float32:
  """A made-up log-prob of token t of an answer that depends on all ids up to it, and on nothing else."""
  ids = np.asarray([len(prompt), *prompt, *answer[: t + 1]], np.int64)
  return np.float32(-int.from_bytes(hashlib.sha256(ids.tobytes()).digest()[:3], "little") / 1e5)


def score(batch) -> np.ndarray:
  """Scores a packed batch slot by slot, reading prompts and answers back from the rows."""
  logp = np.full(batch.target.shape, np.nan, np.float32)  # empty slots must not matter
  for g, r in itertools.product(*map(range, batch.target.shape[:2])):
    tokens, answer = batch.tokens[g, r], batch.answer[g, r]
    for s in range(batch.target.shape[2]):
      slot = batch.answer_of[g, r, s]
      if slot < batch.num_answers:
        mine = answer == slot
        segment = batch.segment[g, r][np.argmax(mine)]
        prompt = tokens[(batch.segment[g, r] == segment) & (answer == -1)]
        rank = int((batch.answer_of[g, r, :s] == slot).sum())
        logp[g, r, s] = token_logp(prompt, tokens[mine], rank)
  return logp


def expected(batch, dataset) -> np.ndarray:
  """The same from the data set, without the rows."""
  logp = np.zeros(batch.target.shape, np.float32)
  for g, r in itertools.product(*map(range, batch.target.shape[:2])):
    for s in range(batch.target.shape[2]):
      slot = batch.answer_of[g, r, s]
      if slot < batch.num_answers:
        e, k = divmod(int(slot), batch.answers_per_example)
        example = dataset[int(batch.example_index[g, r, e])]
        rank = int((batch.answer_of[g, r, :s] == slot).sum())
        logp[g, r, s] = token_logp(example.prompt, example.answers[k], rank)
  return logp


def make_dataset(n=13, seed=0, most=3) -> TokenDataset:
  draw = np.random.default_rng(seed)

  def ids(longest):
    return draw.integers(1, 50, draw.integers(1, longest))

  return TokenDataset.from_examples([(ids(12), [ids(9) for _ in range(draw.integers(1, most + 1))]) for _ in range(n)])


def opened(folder, warn=pytest.fail, **changes) -> ReferenceCache:
  return ReferenceCache(folder, **(MODEL | changes), warn=warn)


def refuse(batch):
  pytest.fail("nothing should be scored")


def answers_in(dataset) -> int:
  return sum(len(dataset[n].answers) for n in range(len(dataset)))


def check(cache, dataset, size=5, **settings):
  settings = BatchSettings(size=size, rows=2, row_length=64, seed=size, **settings)
  batches = Batches(dataset, settings)
  for step in range(3):
    batch = batches(step)
    attached = cache.attach(batch, dataset)
    assert attached.reference_logp.dtype == np.float32
    np.testing.assert_array_equal(attached.reference_logp, expected(batch, dataset))
    others = [field.name for field in dataclasses.fields(batch) if field.name != "reference_logp"]
    assert all(getattr(attached, name) is getattr(batch, name) for name in others)


def test_fill_then_attach(tmp_path):
  dataset = make_dataset()
  seen = []
  cache = opened(tmp_path)
  assert cache.fill(dataset, score, SHAPE, lambda done, total: seen.append((done, total))) == answers_in(dataset)
  assert len(seen) == 4 and seen[-1] == (answers_in(dataset),) * 2 and seen == sorted(seen)
  check(cache, dataset)
  assert cache.fill(dataset, refuse, SHAPE) == 0


def test_reused_by_a_later_run_whatever_its_batches(tmp_path):
  dataset = make_dataset()
  opened(tmp_path).fill(dataset, score, SHAPE)
  other_shape = BatchShape(groups=1, rows=3, length=80, scored=60, examples=2, answers=4)
  cache = opened(tmp_path)
  assert cache.fill(dataset, refuse, other_shape) == 0
  check(cache, dataset, size=1)
  check(cache, dataset, size=7)
  check(cache, dataset, size=4, share_prompt=False)


def test_reused_by_data_sets_that_share_rows(tmp_path):
  dataset = make_dataset()
  opened(tmp_path).fill(dataset, score, SHAPE)
  turned = [(dataset[n].prompt, dataset[n].answers[::-1]) for n in reversed(range(len(dataset)))]
  other = TokenDataset.from_examples([*turned, *turned[:4], (dataset[0].prompt, [[3, 1, 4]])])
  scored = []

  def counting(batch):
    scored.append(int(batch.filled.sum()))
    return score(batch)

  cache = opened(tmp_path)
  assert cache.fill(other, counting, SHAPE) == 1
  assert scored == [3]  # the one new answer and nothing else
  check(cache, other)
  check(cache, dataset)


def test_a_scored_prompt_moves_no_answer(tmp_path):
  """Where the loss reads the prompt's tokens too (loss.nll_span), they lie between those of the answers."""
  dataset = make_dataset()
  shape = dataclasses.replace(SHAPE, answers=SHAPE.answers + 1, score_prompt=True)

  def of_targets(batch):
    return np.where(batch.filled, -batch.target, np.nan).astype(np.float32)

  cache = opened(tmp_path)
  cache.fill(dataset, of_targets, shape)
  batch = pack([dataset[n] for n in range(4)], SHAPE)
  np.testing.assert_array_equal(cache.attach(batch, dataset).reference_logp, np.where(batch.filled, -batch.target, 0))


def test_duplicates_are_scored_once(tmp_path):
  dataset = TokenDataset.from_examples([([1, 2], [[3], [4, 5]]), ([1, 2], [[4, 5], [3]]), ([1, 2], [[3], [3]])])
  cache = opened(tmp_path)
  assert cache.fill(dataset, score, SHAPE) == 2
  check(cache, dataset)


def test_answers_keep_their_owners_when_packing_reorders_examples(tmp_path):
  lengths = [20, 60, 40, 50]  # a row of 64 takes one each, the longest first
  dataset = TokenDataset.from_examples([(range(1, n - 8), [range(5, 9), range(4)]) for n in lengths])
  cache = opened(tmp_path)
  cache.fill(dataset, score, SHAPE)
  batch = pack([dataset[n] for n in range(4)], SHAPE)
  assert batch.example_index[..., 0].reshape(-1).tolist() != [0, 1, 2, 3]
  np.testing.assert_array_equal(cache.attach(batch, dataset).reference_logp, expected(batch, dataset))


@pytest.mark.parametrize(
  "change",
  [
    dict(weights="v"),
    dict(config={"layers": 2, "rope_theta": 1e5}),
    dict(config={"layers": 2}),
    dict(precision="bfloat16"),
    dict(adapters="a"),
  ],
)
def test_another_model_never_hits(tmp_path, change):
  dataset = make_dataset()
  opened(tmp_path).fill(dataset, score, SHAPE)
  other = opened(tmp_path, **change)
  assert sum(len(example.answers) for example in other.missing(dataset)) == answers_in(dataset)
  with pytest.raises(DataError, match=r"example 0: its reference log-probs are not in .*fill the cache"):
    other.attach(pack([dataset[0]], SHAPE), dataset)


def test_other_numerics_never_hit(tmp_path, monkeypatch):
  dataset = make_dataset()
  opened(tmp_path).fill(dataset, score, SHAPE)
  monkeypatch.setattr("dpojax.references.reference_cache.NUMERICS", 10**6)
  assert len(opened(tmp_path).missing(dataset)) == len(dataset)


@pytest.mark.parametrize(
  ("prompt", "answer"),
  [
    ([1, 2, 3], [7, 8]),  # another prompt
    ([1, 2], [4, 9]),  # another last token
    ([1, 2], [4]),  # shorter
    ([1, 2], [4, 5, 6]),  # longer
    ([1, 2, 4], [5]),  # the same ids, split elsewhere
    ([1], [2, 4, 5]),
  ],
)
def test_other_tokens_never_hit(tmp_path, prompt, answer):
  cache = opened(tmp_path)
  cache.fill(TokenDataset.from_examples([([1, 2], [[4, 5]])]), score, SHAPE)
  assert len(cache.missing(TokenDataset.from_examples([([1, 2], [[4, 5]])]))) == 0
  assert len(cache.missing(TokenDataset.from_examples([(prompt, [answer])]))) == 1


def test_a_batch_of_another_data_set_is_refused(tmp_path):
  one = TokenDataset.from_examples([([1, 2], [[4, 5], [6]])])
  two = TokenDataset.from_examples([([1, 2], [[4, 7], [6]])])
  longer = TokenDataset.from_examples([([1, 2], [[4, 5, 5], [6]])])
  cache = opened(tmp_path)
  for dataset in (one, two, longer):
    cache.fill(dataset, score, SHAPE)
  for dataset in (two, longer):
    with pytest.raises(DataError, match="packed from another data set"):
      cache.attach(pack([dataset[0]], SHAPE), one)


def test_a_log_prob_that_is_not_finite_is_never_stored(tmp_path):
  dataset = make_dataset(3)
  with pytest.raises(WeightsError, match="example 0: the reference model gives a log-prob that is not finite"):
    opened(tmp_path).fill(dataset, lambda batch: score(batch) * np.float32("inf"), SHAPE)
  assert len(opened(tmp_path).missing(dataset)) == 3


def test_a_flipped_byte_is_named_and_recomputed(tmp_path):
  dataset = make_dataset()
  opened(tmp_path).fill(dataset, score, SHAPE)
  (path,) = tmp_path.rglob("*" + SUFFIX)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  warnings = []
  cache = opened(tmp_path, warn=warnings.append)
  assert len(warnings) == 1 and str(path) in warnings[0]
  assert 0 < cache.fill(dataset, score, SHAPE) < answers_in(dataset)
  check(cache, dataset)
  assert opened(tmp_path).missing(dataset) == []


def test_an_interruption_does_not_change_which_batches_are_scored(tmp_path):
  """float32 log-probs depend on what shares a row, so a resumed fill must score the same batches."""
  dataset = make_dataset(30)
  packed = {"straight": [], "interrupted": []}

  def recording(name, stop_after):
    def scorer(batch):
      if len(packed[name]) == stop_after:
        raise KeyboardInterrupt
      packed[name].append(batch.tokens.tobytes())
      return score(batch)

    return scorer

  opened(tmp_path / "a").fill(dataset, recording("straight", None), SHAPE)
  for stop in (1, 4, 5, None):
    with contextlib.suppress(KeyboardInterrupt):
      opened(tmp_path / "b").fill(dataset, recording("interrupted", stop), SHAPE)
  assert packed["straight"] == packed["interrupted"] and len(packed["straight"]) > 6


@pytest.mark.slow
def test_kill_9_while_filling(tmp_path):
  code = """
    import sys
    from test_reference_cache import SHAPE, make_dataset, opened, score
    opened(sys.argv[1]).fill(make_dataset(1500, seed=3), score, SHAPE, lambda done, total: print(done, flush=True))
  """
  environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
  dataset = make_dataset(1500, seed=3)
  draw = random.Random(0)
  total = left = answers_in(dataset)
  for _ in range(2):
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    child = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    done = [int(child.stdout.readline()) for _ in range(draw.randrange(20, 60))][-1]
    time.sleep(draw.uniform(0.0, 0.01))
    child.send_signal(signal.SIGKILL)
    child.wait()
    before, left = left, sum(len(example.answers) for example in opened(tmp_path).missing(dataset))
    assert 0 < left <= before - done  # what was reported as done is there
  cache = opened(tmp_path)
  assert cache.fill(dataset, score, SHAPE) == left < total
  check(cache, dataset, size=20)


def test_two_runs_share_a_folder(tmp_path):
  dataset = make_dataset()
  one, two = opened(tmp_path), opened(tmp_path)
  one.fill(dataset, score, SHAPE)
  two.fill(dataset, score, SHAPE)  # opened before the other began
  check(two, dataset)
  assert opened(tmp_path).missing(dataset) == []


def test_an_empty_data_set(tmp_path):
  assert opened(tmp_path).fill(TokenDataset.from_examples([]), refuse, SHAPE) == 0


def params(**changes):
  base = {"a": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.zeros(3)}, "c": jnp.zeros((), jnp.bfloat16)}
  return base | changes


@pytest.mark.parametrize(
  "changed",
  [
    params(a={"w": jnp.arange(6.0).reshape(3, 2), "b": jnp.zeros(3)}),
    params(a={"w": jnp.arange(6.0).reshape(2, 3), "b": -jnp.zeros(3)}),
    params(a={"w": jnp.arange(6.0).reshape(2, 3), "d": jnp.zeros(3)}),
    params(a={"w": jnp.arange(6.0).reshape(2, 3).at[1, 2].add(1e-6), "b": jnp.zeros(3)}),
    params(c=jnp.zeros((), jnp.float16)),
    params(d=jnp.zeros(0)),
  ],
)
def test_the_fingerprint_sees_every_change(changed):
  assert weights_fingerprint(changed) != weights_fingerprint(params())


def test_the_fingerprint_is_of_the_content(tmp_path):
  reordered = {"c": jnp.zeros((), jnp.bfloat16), "a": {"b": np.zeros(3, np.float32), "w": params()["a"]["w"]}}
  assert weights_fingerprint(reordered) == weights_fingerprint(params())
  turned = params(a={"w": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), "b": jnp.zeros(3)})
  assert weights_fingerprint(turned) == weights_fingerprint(params())
