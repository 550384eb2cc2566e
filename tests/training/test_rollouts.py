"""Roll-outs through a real trainer: what the first minibatch sees, what is stored, what is read back."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from dpojax.config.schema import RolloutSettings
from dpojax.errors import CheckpointError
from dpojax.objectives.policy_gradient import KL_COEF, NEXT_KL_COEF
from dpojax.recipes.writing import normalised_reward
from dpojax.rollout.writing import Sample
from dpojax.training.answering import chosen_prompts, permutation, prompted
from dpojax.training.rollout_files import digest_of
from dpojax.training.rollouts import Rollout
from tests.training.tiny_rollouts import EvenShare, make_prompts, make_stage

pytestmark = pytest.mark.slow

MANY_ROWS = dict(rows=4, prompts=make_prompts(40))
WITH_KL_LOSS = dict(critic="shared", kl="loss", entropy_coef=0.01)
FIELDS = [field.name for field in dataclasses.fields(Rollout)]


def check_first_minibatches(stage, rollouts=3):
  metrics = stage.run(rollouts * stage.rollouts.updates)
  for number, row in enumerate(metrics):
    if number % stage.rollouts.updates == 0:
      assert row["policy/approx_kl"] == 0 and row["policy/clip_fraction"] == 0
      assert row["policy/ratio"] == 1 and row["policy/ratio_square"] == 1
      if "value/loss" in row:
        assert row["value/clip_fraction"] == 0
    else:
      assert row["policy/approx_kl"] > 0
  return metrics


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
  """Three roll-outs of PPO in several row groups; read by several tests."""
  made = make_stage(tmp_path_factory.mktemp("stage"))
  made.metrics = check_first_minibatches(made)
  return made


def test_the_first_minibatch_of_every_rollout_has_ratio_one_and_the_sampler_is_near(stage):
  assert stage.rollouts.shape.groups > 1 and len(stage.records) == 3
  for _, metrics in stage.records:
    assert 0 < metrics["rollout/logp_gap"] <= metrics["rollout/logp_gap_max"] <= 1e-4


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
  "options",
  [
    dict(precision="bfloat16", remat="none", **WITH_KL_LOSS),
    dict(precision="bfloat16", **MANY_ROWS),
    dict(remat="none", **WITH_KL_LOSS, **MANY_ROWS),
    dict(method="grpo"),
  ],
  ids=["bfloat16-shared-groups", "bfloat16-rows", "shared-rows", "grpo-groups"],
)
def test_ratios_begin_at_one_in_every_layout(tmp_path, options):
  """To the last bit: the log-probs are those of the very pass that the step differentiates."""
  stage = make_stage(tmp_path, **options)
  check_first_minibatches(stage)
  if "kl" in options:
    assert stage.records[1][1]["objective/kl"] != 0
  gaps = [metrics["rollout/logp_gap_max"] for _, metrics in stage.records]
  assert max(gaps) <= (1e-4 if "precision" not in options else 0.05)


def test_prompts_are_visited_as_one_permutation_after_another():
  for count, size in ((12, 8), (7, 3), (3, 8), (5, 5)):
    seen = np.concatenate([chosen_prompts(count, size, number, seed=4) for number in range(11)])
    epochs = [seen[start : start + count] for start in range(0, len(seen) - count + 1, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
  assert permutation(6, 1, 2).tolist() != permutation(6, 2, 1).tolist()


def test_a_prompt_that_comes_again_gets_other_answers(tmp_path):
  prompts = make_prompts(1)  # eight times in every roll-out
  stage = make_stage(tmp_path, prompts=prompts, learning_rate=1e-30, method="rloo")  # the policy stays where it is
  stage.run(8)
  rollouts = [Rollout.read(tmp_path / "rollouts" / f"00000{n}.npz", "this") for n in range(2)]
  pairs = [repr([answer.tolist() for answer in several]) for rollout in rollouts for several in rollout.answers()]
  assert len(set(pairs)) == len(pairs) == 16


def test_a_stored_rollout_is_read_back_to_the_last_bit(stage, tmp_path):
  found = stage.rollouts.current
  again = Rollout.read(stage.rollouts._folder / "000002.npz", "this")
  assert set(FIELDS) == set(vars(again))
  for name in FIELDS:
    before, after = getattr(found, name), getattr(again, name)
    assert type(before) is type(after), name
    if isinstance(before, np.ndarray):
      assert before.dtype == after.dtype and np.array_equal(before, after), name
    else:
      assert before == after, name
  assert Rollout.read(stage.rollouts._folder / "000002.npz", "another") is None
  assert Rollout.read(tmp_path / "000002.npz", "this") is None


def test_no_changed_byte_of_a_stored_rollout_goes_unseen(stage, tmp_path):
  path = stage.rollouts._folder / "000001.npz"
  content, file = path.read_bytes(), tmp_path / "000001.npz"
  right = Rollout.read(path, "this")
  draws = np.random.default_rng(0)
  refused = 0
  for place in draws.choice(len(content), 400, replace=False).tolist():
    changed = bytearray(content)
    changed[place] ^= 1 << int(draws.integers(8))
    file.write_bytes(changed)
    try:
      found = Rollout.read(file, "this")
    except CheckpointError as error:
      assert str(file) in str(error) and "delete it" in str(error)
      refused += 1
    else:  # times and such, which nobody reads
      assert all(np.array_equal(getattr(found, name), getattr(right, name)) for name in FIELDS), place
  assert refused > 300
  for length in (0, 1, 100, len(content) // 2, len(content) - 1):
    file.write_bytes(content[:length])
    with pytest.raises(CheckpointError, match=r"000001.npz: damaged"):
      Rollout.read(file, "this")


def test_a_header_that_says_less_is_seen(stage, tmp_path):
  """numpy reads as much as a header says, and a zip file's checksum is looked at only where all is read."""
  file = tmp_path / "000001.npz"
  content = (stage.rollouts._folder / "000001.npz").read_bytes()
  assert content.count(b"'<f4'") == 4
  file.write_bytes(content.replace(b"'<f4'", b"'<f2'", 1))
  with pytest.raises(CheckpointError, match="damaged"):
    Rollout.read(file, "this")


def params_of(stage):
  return jax.device_get(stage.trainer.params)


def same(one, other):
  return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_killed_anywhere_it_goes_on_with_the_stored_rollout(tmp_path):
  """State and roll-outs as they lie on the disk are all there is of a run; the reward may be anything."""

  class Noise(EvenShare):
    def __call__(self, answers):
      return np.random.default_rng().normal(size=len(answers))

  def make():
    return make_stage(tmp_path, reward=Noise(), kl_controller="adaptive", kl_horizon=50.0)

  whole, states = make(), []
  for _ in range(7):
    states.append(jax.device_get(whole.trainer.state))
    whole.run(1)
  for at, state in enumerate(states):
    again = make().restore(state)
    again.run(7 - at)
    assert same(jax.device_get(again.trainer.state), jax.device_get(whole.trainer.state)), at
    assert again.records == [row for row in whole.records if row[0] >= at], at
  coefs = [metrics["objective/kl_coef"] for _, metrics in whole.records]
  assert coefs[0] == 0.05 and coefs[1] != 0.05


def test_a_rollout_that_is_needed_and_gone_is_an_error(tmp_path):
  stage = make_stage(tmp_path, method="rloo")
  stage.run(5)
  again = make_stage(tmp_path, method="rloo").restore(stage.trainer.state)
  (tmp_path / "rollouts" / "000001.npz").unlink()
  with pytest.raises(
    CheckpointError, match=r"000001.npz: it is gone, and 1 of the 4 updates.*checkpoints of steps after 4"
  ):
    again.run(1)


def test_only_rollouts_that_no_checkpoint_goes_back_to_are_dropped(tmp_path):
  oldest = [0]
  stage = make_stage(tmp_path, method="rloo", options=dict(oldest_step=lambda: oldest[0]))
  folder = tmp_path / "rollouts"
  folder.mkdir()
  (folder / "normalisation.json").write_text("{}")
  (folder / "notes.npz").write_text("")
  kept = lambda: sorted(int(path.stem) for path in folder.glob("0*.npz"))  # noqa: E731
  stage.run(9)
  assert kept() == [0, 1, 2]
  oldest[0] = 7  # in the middle of roll-out 1
  stage.run(4)
  assert kept() == [1, 2, 3]
  oldest[0] = 1000
  stage.rollouts.drop_old(2)
  assert kept() == [2, 3]
  stage.rollouts.drop_old(3)
  assert kept() == [3]
  assert (folder / "normalisation.json").exists() and (folder / "notes.npz").exists()


def test_beyond_the_limit_steps_are_not_taken_until_the_next_rollout(tmp_path):
  stage = make_stage(tmp_path, update_kl_limit=1e-9, epochs=3)
  before = jax.device_get(stage.trainer.state)
  stopped = []
  for number in range(12):
    (metrics,) = stage.run(1)
    after = jax.device_get(stage.trainer.state)
    moved = not same((before.params, before.opt_state), (after.params, after.opt_state))
    first = number % 6 == 0
    assert moved == first == bool(metrics["taken"]), number
    assert after.step == number + 1 and after.skipped == 0
    stopped.append(float(after.running["stopped"]))
    tokens = stage.rollouts.num_tokens(number)
    # The step that finds the policy too far has its rows; those behind it have none.
    assert (tokens > 0) == (number % 6 < 2) == (not np.isnan(metrics["loss"])), number
    before = after
  assert stopped == [0, 1, 1, 1, 1, 1] * 2


def test_a_loose_limit_stops_nothing(tmp_path):
  stage = make_stage(tmp_path, update_kl_limit=1e3)
  assert [row["taken"] for row in stage.run(8)] == [1.0] * 8


def scripted(lengths, cut):
  """Answers of given lengths, some of them cut, whatever the policy."""

  def write(params, prompts, numbers, progress):
    del params, progress
    found = []
    for number, _ in zip(numbers, prompts, strict=True):
      some = []
      for k in range(2):
        place = (2 * number + k) % len(lengths)
        tokens = np.full(lengths[place], 4 + place, np.int32)
        some.append(Sample(tokens, "length" if place in cut else "eos", np.full(len(tokens), -1.0, np.float32)))
      found.append(some)
    return found

  return write


class Seven(EvenShare):
  def __call__(self, answers):
    return np.full(len(answers), 0.7)


@pytest.mark.parametrize("rule, expected", [("keep", 0.7), ("replace", -1.5), ("subtract", -0.8)])
def test_answers_that_were_cut_and_fractions_of_a_reward(tmp_path, rule, expected):
  stage = make_stage(
    tmp_path,
    method="reinforce",
    write=scripted([3, 8, 2], cut={1}),
    reward=Seven(),
    kl_coef=0.0,
    rollout=dict(missing_eos=rule, eos_penalty=1.5),
  )
  stage.rollouts(0)
  found = stage.rollouts.current
  cut = found.length == 8
  assert cut.any() and not cut.all() and found.reward.dtype == np.float64
  assert found.reward.tolist() == [0.7] * len(cut)
  assert found.score == pytest.approx(np.where(cut, expected, 0.7))
  # Without KL, baseline or critic every token's advantage is the score itself.
  mask = np.arange(8)[None] < found.length[:, None]
  assert np.array_equal(found.advantage, np.where(mask, found.score[:, None], 0.0))


def test_whitening_by_minibatch_and_by_rollout_are_one_where_there_is_one_minibatch(tmp_path):
  batches = {}
  for whiten in ("minibatch", "rollout"):
    stage = make_stage(tmp_path / whiten, whiten=whiten, minibatches=1, write=scripted([3, 8, 2, 5, 1], cut={1}))
    batches[whiten] = [stage.rollouts(step) for step in range(2)]
  for one, other in zip(batches["minibatch"], batches["rollout"], strict=True):
    filled = one.filled
    assert np.max(np.abs(one.advantage - other.advantage)) <= 1e-7
    real = one.advantage[filled].astype(np.float64)
    assert abs(real.mean()) <= 1e-6 and real.std() == pytest.approx(1, abs=1e-5)
    assert not one.advantage[~filled].any()


def test_whitening_by_minibatch_is_of_the_minibatch(tmp_path):
  stage = make_stage(tmp_path, whiten="minibatch")
  for step in range(4):
    batch = stage.rollouts(step)
    real = batch.advantage[batch.filled].astype(np.float64)
    assert abs(real.mean()) <= 1e-6 and real.std() == pytest.approx(1, abs=1e-4)


def test_the_epochs_of_a_rollout_hold_the_same_tokens_in_other_orders(tmp_path):
  stage = make_stage(tmp_path, method="rloo", epochs=3)
  epochs = [[stage.rollouts(2 * epoch + part) for part in range(2)] for epoch in range(3)]
  held = [sorted(np.concatenate([b.tokens[b.segment >= 0] for b in epoch]).tolist()) for epoch in epochs]
  assert held[0] == held[1] == held[2]
  assert len({epoch[0].tokens.tobytes() for epoch in epochs}) > 1
  counted = [sum(stage.rollouts.num_tokens(2 * epoch + part) for part in range(2)) for epoch in range(3)]
  assert len(set(counted)) == 1 and counted[0] > 0
  assert stage.rollouts.num_tokens(0) == 0  # counted once


def test_the_next_coefficient_is_part_of_the_state(tmp_path):
  stage = make_stage(tmp_path, kl_controller="exponential", kl_target=1e-6, learning_rate=1e-2)
  stage.run(9)
  coefs = [metrics["objective/kl_coef"] for _, metrics in stage.records]
  kls = [metrics["objective/kl"] for _, metrics in stage.records]
  for (now, following), kl in zip(itertools.pairwise(coefs), kls, strict=False):
    error = min(max(kl / 1e-6 - 1, -1), 1)
    assert following == pytest.approx(now * np.exp(0.15 * error), rel=1e-6)  # the state's f32
  running = stage.trainer.state.running
  assert float(running[KL_COEF]) == pytest.approx(coefs[-1]) and float(running[NEXT_KL_COEF]) != coefs[-1]


class Lengths(EvenShare):
  def __call__(self, answers):
    return np.asarray([3.0 * len(answer.answer_ids) + 100 for answer in answers])


def test_normalisation_is_measured_on_the_reference_once(tmp_path):
  rollout = RolloutSettings(samples=2, normalise=True, normalise_on=5)
  prompts, decode, asked = make_prompts(12), lambda sample: "", []
  lengths = [3, 8, 2, 5, 1]

  def write(params, prompts, numbers, progress):
    asked.append((params, len(prompts), min(numbers)))
    return scripted(lengths, cut=())(params, prompts, numbers, progress)

  def normalised(identity="this", settings=rollout):
    return normalised_reward(Lengths(), settings, write, prompts, lambda: "reference", decode, tmp_path, identity)

  reward = normalised()
  assert asked == [("reference", 5, 2**31)]  # of the reference, under keys that no roll-out has
  rows = prompts[:5]
  samples = scripted(lengths, cut=())(None, rows, range(2**31, 2**31 + 5), None)
  scores = reward(prompted(rows, samples, decode))
  assert np.mean(scores) == pytest.approx(0, abs=1e-12) and np.std(scores) == pytest.approx(1, rel=1e-12)
  again = normalised()  # a restart
  assert len(asked) == 1 and np.array_equal(again(prompted(rows, samples, decode)), scores)
  lengths[:] = [1, 2]
  assert not np.array_equal(normalised("other")(prompted(rows, samples, decode)), scores) and len(asked) == 2
  plain = normalised(settings=dataclasses.replace(rollout, normalise=False))
  assert plain(prompted(rows, samples, decode))[0] > 100 and len(asked) == 2


def test_a_digest_depends_on_all_that_is_stored():
  arrays = {"a": np.arange(3), "b": np.zeros((2, 2), np.float32)}
  facts = {"kl_coef": 0.05, "metrics": {"x": 1.0}}
  seen = {digest_of(facts, arrays)}
  for changed in (
    {**arrays, "a": np.arange(1, 4)},
    {**arrays, "a": np.arange(3, dtype=np.int32)},
    {**arrays, "b": np.zeros(4, np.float32)},
    {"a": arrays["a"], "c": arrays["b"]},
  ):
    seen.add(digest_of(facts, changed))
  seen.add(digest_of(facts | {"kl_coef": 0.06}, arrays))
  assert len(seen) == 6
  assert digest_of(json.loads(json.dumps(facts)), arrays) in seen and len(seen) == 6


def test_a_reference_that_moves_follows_the_policy_beside_a_critic(tmp_path):
  """With mix 1 the reference is the policy as it was at the last move, so the next roll-out's KL is 0."""
  stage = make_stage(tmp_path, moving=(4, 1.0))
  stage.run(4)
  for moved, policy in zip(
    jax.tree.leaves(stage.trainer.state.reference), jax.tree.leaves(stage.trainer.policy_params), strict=True
  ):
    assert np.array_equal(moved, policy)
  stage.rollouts(4)
  assert abs(stage.rollouts.current.metrics["objective/kl"]) < 1e-6
  stage.run(3)
  stage.rollouts(7)
  start = make_stage(tmp_path / "start").trainer.policy_params
  assert not np.array_equal(jax.tree.leaves(stage.trainer.state.reference)[0], jax.tree.leaves(start)[0])
