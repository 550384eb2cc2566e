"""Pairs that a policy writes itself: what a roll-out holds, which steps are made of it, and that nothing is lost."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.config.schema import BatchSettings, OnlineSettings, OptimizerSettings, RolloutSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.packing import pack
from dpojax.data.prompts import PromptRow
from dpojax.errors import CheckpointError, ConfigError, DataError
from dpojax.losses.spec import loss_spec
from dpojax.objectives.preference import Preference
from dpojax.rollout.pair_making import make_pairs, pair_shape, prompts_of_rollout
from dpojax.rollout.sampler import generate
from dpojax.rollout.writing import Sample
from dpojax.scoring import score_answers
from dpojax.training.online_pairs import OPPONENT_NUMBER, OnlinePairs, PairRollout
from dpojax.training.optimizer import make_optimizer
from dpojax.training.preemption import Interrupted
from dpojax.training.trainer import Trainer
from tests.training.tiny import MODEL, tiny_params, train

pytestmark = pytest.mark.slow

BATCH = BatchSettings(size=4, rows=2, row_length=32)
ROLLOUT = RolloutSettings(samples=3, max_tokens=6)
ONLINE = OnlineSettings(refresh=4, choose="all")
PROMPTS = [
  PromptRow(text := f"p{i}", text, np.random.default_rng(i).integers(1, 32, 3 + i % 4).astype(np.int32), text, i)
  for i in range(9)
]


class LowTokens:
  """The share of an answer's tokens that are below 16; counts how often it was asked. `shift` is added for every token."""

  name = fingerprint = "low tokens"

  def __init__(self, shift=0.0):
    self.asked, self.shift = 0, shift

  def __call__(self, answers):
    self.asked += 1
    return np.asarray([np.mean(answer.answer_ids < 16) + self.shift * len(answer.answer_ids) for answer in answers])


def sampler(samples):
  def write(params, prompts, numbers, progress):
    progress(0, 0)
    return generate(
      MODEL, params, prompts, samples=samples, max_tokens=ROLLOUT.max_tokens, eos_id=0, numbers=numbers, rows=16
    )

  return write


def trainer_of(spec="dpo", **options):
  start, spec = tiny_params(), loss_spec(spec, beta=0.3)
  optimizer = make_optimizer(OptimizerSettings(learning_rate=3e-3, schedule="constant"), 20, MODEL.parameters)
  if not options:
    options = {"reference_params": start}
  hyper = {**spec.hyper, **options.pop("hyper", {})}
  return Trainer(Preference(MODEL, spec), optimizer, start, hyper=hyper, **options)


def shape_of(batch=BATCH, **changes):
  lengths = [len(row.ids) for row in PROMPTS]
  limits = dict(longest_prompt=max(lengths), shortest_prompt=min(lengths), max_tokens=ROLLOUT.max_tokens)
  return pair_shape(batch, **limits | changes)


def pairs_of_policy(folder, trainer=None, *, online=ONLINE, rollout=ROLLOUT, **options):
  options = dict(write=sampler(rollout.samples), reward=LowTokens()) | options
  size = prompts_of_rollout(BATCH.size, rollout.samples, online)
  write, reward = options.pop("write"), options.pop("reward")
  told = {name: options.pop(name) for name in ("record", "say", "status", "oldest_step") if name in options}
  source = OnlinePairs(
    trainer or trainer_of(),
    write,
    PROMPTS,
    reward,
    rollout,
    online,
    BATCH,
    batch_prompts=size,
    shape=shape_of(),
    decode=lambda sample: " ".join(map(str, sample.tokens.tolist())),
    folder=folder,
    **options,
  )
  for name, function in told.items():
    setattr(source, name, function)
  return source


def stored(folder, number=0):
  found = PairRollout.read(folder / "rollouts" / f"{number:06d}.npz", "")
  assert found is not None
  return found


def written_pairs(folder, number=0):
  """[(prompt, winner, loser)] of a stored roll-out, read from its arrays."""
  with np.load(folder / "rollouts" / f"{number:06d}.npz") as file:
    arrays = dict(file)
  ends = np.cumsum(arrays["length"])
  answer = lambda a: arrays["tokens"][ends[a] - arrays["length"][a] : ends[a]]  # noqa: E731
  samples = len(ends) // len(arrays["prompts"])
  return [
    (PROMPTS[arrays["prompts"][w // samples]].ids, answer(w), answer(l), arrays["score"][w] - arrays["score"][l])
    for w, l in arrays["pairs"]  # noqa: E741
  ]


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_step_is_a_pure_function_of_roll_out_and_number(tmp_path):
  source = pairs_of_policy(tmp_path)
  batches = [source(step) for step in range(4)]
  again = pairs_of_policy(tmp_path)  # another process, which reads what is on disk
  for step in (2, 0, 3, 1):
    assert_equal(again(step), batches[step])
  held = [written_pairs(tmp_path)[i] for i in np.asarray(batches[2].example_index).flat if i >= 0]
  assert again.num_tokens(2) == sum(2 * len(prompt) + len(won) + len(lost) for prompt, won, lost, _ in held)
  later = [
    source(step) for step in (4, 5)
  ]  # the steps of a roll-out are numbered from 0, as of a data set of their own
  alone = Batches(stored(tmp_path, 1).dataset(PROMPTS), BATCH, shape_of())
  assert_equal(later, [alone(0), alone(1)])


def test_the_pairs_of_a_roll_out_are_read_as_often_as_one_another(tmp_path):
  rows = []
  source = pairs_of_policy(tmp_path, record=lambda step, metrics: rows.append((step, metrics)))
  seen = collections.Counter(i for step in range(4) for i in np.asarray(source(step).example_index).flat if i >= 0)
  (step, metrics), count = rows[0], len(stored(tmp_path).pairs)
  assert step == 0 and metrics["pairs/pairs"] == count == len(seen) and sum(seen.values()) == 4 * BATCH.size
  assert max(seen.values()) - min(seen.values()) <= 1
  # Of 6 prompts with 3 answers each, 18 pairs: 16 are wanted.
  assert sum(value for name, value in metrics.items() if name.startswith("pairs/") and name != "pairs/margin") == 18


def test_the_offline_end_is_training_on_the_pairs_of_the_start(tmp_path):
  online = dataclasses.replace(ONLINE, refresh=6)
  trainer = trainer_of()
  train(trainer, pairs_of_policy(tmp_path, trainer, online=online), 6)
  dataset = TokenDataset.from_examples(
    [TokenExample(p.astype(np.int32), (w, l), margin=m) for p, w, l, m in written_pairs(tmp_path)]  # noqa: E741
  )
  other = trainer_of()
  train(other, Batches(dataset, BATCH, shape_of()), 6)
  assert_equal(jax.device_get(trainer.state), jax.device_get(other.state))
  assert len(list((tmp_path / "rollouts").glob("*.npz"))) == 1


def test_pairs_are_of_one_prompt_and_the_higher_score_wins_by_its_margin(tmp_path):
  pairs_of_policy(tmp_path)(0)
  found = stored(tmp_path)
  score = [np.mean(tokens < 16) for tokens in found.answers]
  np.testing.assert_allclose(found.score, score)
  dataset = found.dataset(PROMPTS)
  for i, (prompt, won, lost, _) in enumerate(written_pairs(tmp_path)):
    assert_equal((dataset[i].prompt, *dataset[i].answers), (prompt, won, lost))
    np.testing.assert_allclose(dataset[i].margin, np.mean(won < 16) - np.mean(lost < 16))
    assert dataset[i].margin > 0
  assert np.all(found.pairs[:, 0] // 3 == found.pairs[:, 1] // 3)


def test_every_roll_out_is_of_the_policy_as_it_is(tmp_path):
  written = []

  def write(params, prompts, numbers, progress):
    written.append((jax.device_get(params), list(numbers), [p.tolist() for p in prompts]))
    return sampler(3)(params, prompts, numbers, progress)

  trainer, params = trainer_of(), []
  source = pairs_of_policy(tmp_path, trainer, write=write)
  for step, _ in trainer.steps(source, 9):
    params.append(jax.device_get(trainer.params))
    assert step == len(params)
  assert len(written) == 3
  assert_equal(written[0][0], tiny_params())
  assert_equal(written[1][0], params[3])
  assert_equal(written[2][0], params[7])
  numbers = [n for _, some, _ in written for n in some]
  assert numbers == list(range(18))  # a number is used once: no two answers share their draws
  prompts = [tuple(p) for _, _, some in written for p in some]
  assert set(collections.Counter(prompts[:9]).values()) == {1} == set(collections.Counter(prompts[9:]).values())


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_run_that_went_on_ends_as_one_that_was_left_alone(tmp_path, stop):
  whole, reward = trainer_of(), LowTokens()
  train(whole, pairs_of_policy(tmp_path / "whole", whole, reward=reward), 10)
  assert reward.asked == 3
  begun = trainer_of()
  train(begun, pairs_of_policy(tmp_path / "begun", begun), stop)
  saved = jax.device_get(begun.state)
  resumed, other = trainer_of(), LowTokens(shift=-9.0)  # whoever asked it now would get other pairs
  resumed.state = jax.tree.map(jax.numpy.asarray, saved)
  source = pairs_of_policy(tmp_path / "begun", resumed, reward=other)
  train(resumed, source, -stop % 4)  # to the end of the roll-out
  assert other.asked == 0
  other.shift = 0.0
  train(resumed, source, 10 - int(resumed.state.step))
  assert_equal(jax.device_get(resumed.state), jax.device_get(whole.state))


def test_a_roll_out_that_is_gone_is_not_made_anew_in_its_middle(tmp_path):
  trainer = trainer_of()
  train(trainer, pairs_of_policy(tmp_path, trainer), 2)
  (tmp_path / "rollouts" / "000000.npz").unlink()
  with pytest.raises(CheckpointError, match=r"000000.npz: it is gone, and 2 of the 4 updates"):
    pairs_of_policy(tmp_path, trainer)(2)


def test_roll_outs_that_no_checkpoint_goes_back_to_are_deleted(tmp_path):
  trainer = trainer_of()
  source = pairs_of_policy(tmp_path, trainer, oldest_step=lambda: 6)
  train(trainer, source, 13)
  kept = sorted(path.stem for path in (tmp_path / "rollouts").glob("*.npz"))
  assert kept == ["000001", "000002", "000003"]  # step 6 is of roll-out 1


def test_a_run_that_is_asked_to_stop_leaves_no_half_roll_out(tmp_path):
  source = pairs_of_policy(tmp_path)
  source.interrupted = lambda step: step == 0
  with pytest.raises(Interrupted):
    source(0)
  assert not (tmp_path / "rollouts").exists()


def test_counts_and_errors_where_no_two_answers_make_a_pair(tmp_path):
  same = lambda params, prompts, numbers, progress: [  # noqa: E731
    [Sample(np.asarray([3, 0], np.int32), "eos", np.zeros(2, np.float32))] * 3 for _ in prompts
  ]
  with pytest.raises(DataError, match=r"roll-out 0: 18 answers to 6 prompts make no pair \(18 of identical answers\)"):
    pairs_of_policy(tmp_path, write=same)(0)
  assert not (tmp_path / "rollouts").exists()
  strict = dataclasses.replace(ONLINE, min_margin=2.0)
  with pytest.raises(
    DataError, match=r"below online.min_margin\); raise rollout.temperature .* lower online.min_margin"
  ):
    pairs_of_policy(tmp_path, online=strict)(0)

  def nearly_same(params, prompts, numbers, progress):
    tokens = [[[3, 0], [3, 0], [5, 0] if number % 6 == 2 else [3, 0]] for number in numbers]
    return [[Sample(np.asarray(t, np.int32), "eos", np.zeros(2, np.float32)) for t in some] for some in tokens]

  said, rows = [], []
  reward = lambda answers: np.asarray([float(a.answer_ids[0] == 5) for a in answers])  # noqa: E731
  options = dict(write=nearly_same, reward=reward, say=said.append, record=lambda step, metrics: rows.append(metrics))
  source = pairs_of_policy(tmp_path, **options)
  indices = [np.sort(np.asarray(source(step).example_index), axis=None)[-4:] for step in range(4)]
  np.testing.assert_array_equal(indices, [[0, 0, 1, 1]] * 4)  # two pairs serve all 16 places
  source(4)  # which has few pairs too, and that was said
  what = "2 pairs of 18 answers to 6 prompts, each read 8 times, as so few are left; left out: 16 of identical answers"
  assert said == [f"roll-out 0: {what}"]
  assert rows[0]["pairs/identical"] == 16 and rows[0]["pairs/pairs"] == 2
  assert rows[0]["objective/reward"] == 1 / 18 and rows[0]["pairs/margin"] == 1.0


def test_winners_are_drawn_anew_for_every_pair_of_every_roll_out():
  made = lambda first, count, **changes: make_pairs(  # noqa: E731
    ["a", "b"] * count,
    np.tile([1.0, 0.0], count),
    2,
    OnlineSettings(label="bradley_terry", **changes),
    seed=3,
    first=first,
  )
  pairs, counts = made(0, 2000)
  assert counts == {"pairs": 2000, "identical": 0, "tied": 0, "below_margin": 0, "not_chosen": 0}
  won = pairs[:, 0] % 2 == 0
  rate = 1 / (1 + np.exp(-1.0))
  assert abs(won.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / 2000)
  np.testing.assert_array_equal(made(1000, 1000)[0], pairs[1000:] - 2000)  # prompt 1000 is the same in any roll-out
  assert not np.array_equal(won[:1000], won[1000:])
  one, counts = made(0, 2000, opponent="reference")
  assert counts["pairs"] == 2000 and np.array_equal(one, pairs)  # the only pair there can be


# An opponent.


def test_the_reference_writes_half_of_the_answers_and_a_pair_has_one_of_each(tmp_path):
  online, rollout = dataclasses.replace(ONLINE, opponent="reference"), dataclasses.replace(ROLLOUT, samples=4)
  other, calls = tiny_params(seed=5), []

  def write(params, prompts, numbers, progress):
    calls.append((params, list(numbers)))
    return sampler(2)(params, prompts, numbers, progress)

  trainer = trainer_of("xpo")
  options = dict(online=online, rollout=rollout, write=write, opponent=lambda: other)
  source = pairs_of_policy(tmp_path, trainer, **options)
  batch = source(0)
  assert calls[0][0] is trainer.params and calls[1][0] is other
  assert calls[0][1] == list(range(8)) and calls[1][1] == [OPPONENT_NUMBER + i for i in range(8)]
  found = stored(tmp_path)
  np.testing.assert_array_equal(found.by_reference, [False, False, True, True] * 8)
  assert np.all(found.by_reference[found.pairs].sum(axis=1) == 1)
  assert np.all(abs(found.pairs[:, 0] - found.pairs[:, 1]) == 2)  # the j-th of the one meets the j-th of the other
  index = np.asarray(batch.example_index)
  first = found.by_reference[found.pairs[:, 0]]
  np.testing.assert_array_equal(batch.example_opponent, np.where(index < 0, -1, np.where(first[index], 0, 1)))
  assert 0 < np.sum(first) < len(first)


def test_xpos_gradient_takes_from_what_the_reference_wrote(tmp_path):
  online, rollout = dataclasses.replace(ONLINE, opponent="reference"), dataclasses.replace(ROLLOUT, samples=4)
  options = dict(online=online, rollout=rollout, write=sampler(2), opponent=tiny_params)
  trainer = trainer_of("xpo(alpha=0.5)")
  batch = pairs_of_policy(tmp_path, trainer, **options)(0)
  outputs = trainer.forward(trainer.place(batch), reference=True)
  logp, answer_of = np.asarray(outputs.logp, np.float64), np.asarray(batch.answer_of)
  found, total = stored(tmp_path), 0.0
  for g, r, e in zip(*np.nonzero(np.asarray(batch.example_index) >= 0), strict=True):
    won, lost = found.pairs[batch.example_index[g, r, e]]
    side = 0 if found.by_reference[won] else 1
    assert found.by_reference[(won, lost)[side]]
    total += np.sum(logp[g, r][answer_of[g, r] == 2 * e + side])
  metrics = trainer.take_step(trainer.place(batch))
  # At policy = reference DPO is log 2 for every pair, and the rest is the bonus.
  np.testing.assert_allclose(float(metrics["loss"][0]) / 4, np.log(2) + 0.5 * total / 4, rtol=1e-6)
  after = trainer.forward(trainer.place(batch), reference=True)
  moved, total = np.asarray(after.logp, np.float64) - logp, 0.0
  for g, r, e in zip(*np.nonzero(np.asarray(batch.example_index) >= 0), strict=True):
    total += np.sum(moved[g, r][answer_of[g, r] == 2 * e + batch.example_opponent[g, r, e]])
  assert total < 0


def test_xpo_without_a_mark_is_an_error(tmp_path):
  trainer = trainer_of("xpo")
  with pytest.raises(ValueError, match="xpo needs to know which answers the reference wrote"):
    trainer.take_step(trainer.place(pairs_of_policy(tmp_path, trainer)(0)))


def test_the_opponent_is_a_moving_reference_where_it_has_come_to(tmp_path):
  hyper = {"reference_every": 4.0, "reference_mix": 0.5}
  trainer = trainer_of(moving_reference=tiny_params(seed=3), hyper=hyper)
  online, rollout = dataclasses.replace(ONLINE, opponent="reference"), dataclasses.replace(ROLLOUT, samples=2)
  written = []

  def write(params, prompts, numbers, progress):
    written.append(jax.device_get(params))
    return sampler(1)(params, prompts, numbers, progress)

  options = dict(online=online, rollout=rollout, write=write, opponent=lambda: trainer.compared_params)
  train(trainer, pairs_of_policy(tmp_path, trainer, **options), 5)
  policy, start, after, moved = written
  assert_equal(policy, tiny_params())
  assert_equal(start, tiny_params(seed=3))
  jax.tree.map(
    lambda m, a, s: np.testing.assert_allclose(m, 0.5 * np.asarray(a) + 0.5 * np.asarray(s), rtol=1e-6, atol=1e-7),
    moved,
    after,
    start,
  )


# What is measured.


def test_kl_is_the_log_ratio_of_what_the_policy_wrote(tmp_path):
  rows, trainer = [], trainer_of()
  source = pairs_of_policy(tmp_path, trainer, record=lambda step, metrics: rows.append(metrics))
  train(trainer, source, 4)
  params = jax.tree.map(np.asarray, jax.device_get(trainer.params))
  source(4)
  assert rows[0]["objective/kl"] == 0.0  # one program for both
  # Four examples of at most two answers: the answers to two prompts.
  found = stored(tmp_path, 1)
  answers = found.answers[:6]
  dataset = TokenDataset.from_examples([(PROMPTS[found.prompts[a // 3]].ids, [answers[a]]) for a in range(6)])
  ours, theirs = (score_answers(MODEL, p, dataset) for p in (params, tiny_params()))
  ratios = [one.logps[0] - other.logps[0] for one, other in zip(ours, theirs, strict=True)]
  assert abs(np.mean(ratios)) > 1e-3
  np.testing.assert_allclose(rows[1]["objective/kl"], np.mean(ratios), atol=2e-5)  # sums of 6 log-probs in float32
  tokens = sum(map(len, answers))
  np.testing.assert_allclose(rows[1]["objective/kl_token"], np.sum(ratios) / tokens, atol=2e-5)


# Sizes.


@pytest.mark.parametrize(
  ("choose", "opponent", "samples", "epochs", "want"),
  [
    ("best_worst", "policy", 4, 1.0, 32),
    ("best_random", "policy", 4, 2.0, 16),
    ("all", "policy", 4, 1.0, 6),
    ("adjacent", "policy", 4, 1.0, 11),
    ("best_worst", "reference", 4, 1.0, 16),
    ("best_worst", "reference", 2, 0.5, 64),
    ("all", "policy", 9, 16.0, 1),
  ],
)
def test_a_roll_out_has_the_prompts_whose_pairs_its_steps_read(choose, opponent, samples, epochs, want):
  online = OnlineSettings(refresh=4, choose=choose, opponent=opponent, epochs=epochs)
  assert prompts_of_rollout(8, samples, online) == want


@settings(max_examples=60)
@given(
  prompts=st.lists(st.integers(3, 9), min_size=4, max_size=4),
  answers=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=4, max_size=4),
  share=st.booleans(),
  score_prompt=st.booleans(),
)
def test_whatever_is_written_fits_the_shape(prompts, answers, share, score_prompt):
  batch = BatchSettings(size=4, rows=2, row_length=32, share_prompt=share)
  shape = pair_shape(batch, longest_prompt=9, shortest_prompt=3, max_tokens=6, score_prompt=score_prompt)
  ones = lambda n: np.ones(n, np.int32)  # noqa: E731
  examples = [
    TokenExample(ones(p), (ones(a), ones(b)), index=i)
    for i, (p, (a, b)) in enumerate(zip(prompts, answers, strict=True))
  ]
  packed = pack(examples, shape, share_prompt=share)
  assert packed.tokens.shape == (2, 2, 32)
  assert sorted(i for i in packed.example_index.flat if i >= 0) == [0, 1, 2, 3]


def test_limits_that_no_row_holds_are_refused():
  with pytest.raises(
    ConfigError,
    match=r"batch.row_length=32 has no room for the longest prompt \(21 tokens\) and two answers of "
    r"rollout.max_tokens=6, which take 33; raise it, or set data.max_prompt",
  ):
    shape_of(longest_prompt=21)
  with pytest.raises(ConfigError, match=r"batch.scored=11 has no room for two answers .*; set it to 12 or more"):
    shape_of(dataclasses.replace(BATCH, scored=11))
  with pytest.raises(ConfigError, match=r"and their prompt, which the loss reads; set it to 17 or more"):
    shape_of(dataclasses.replace(BATCH, scored=16), score_prompt=True)
  assert shape_of(dataclasses.replace(BATCH, scored=16, examples=2)).scored == 16
