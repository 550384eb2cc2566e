"""Policy and critic in one run's folder: read back exactly, and what a critic of another run starts from."""

import dataclasses

import jax
import numpy as np
import pytest

from dpojax.cli.main import main
from dpojax.config.keys import replace_values
from dpojax.config.record import write_config
from dpojax.config.schema import CheckpointSettings, RunConfig
from dpojax.errors import CheckpointError, ConfigError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.reward_model import RewardModel
from dpojax.recipes.critic import critic_start
from dpojax.recipes.inputs import Inputs
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.model_files import LoadedModel, has_critic, load, load_critic, load_model, save_description
from dpojax.training.run_reference import beta_of_run, find_reference
from tests.training.runs import write_tiny_model

STEPS = (3, 6)
PG = "policy_gradient"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """(path, model) that every policy here starts from."""
  path = write_tiny_model(tmp_path_factory.mktemp("start") / "model")
  return path, load(path)


def write_run(folder, start, params, **settings):
  """A run's folder with `params(step)` in the checkpoints of `STEPS`."""
  path, loaded = start
  folder.mkdir(parents=True)
  settings = {"model.path": str(path), "data.path": "x.jsonl", "rollout.reward": "length"} | settings
  write_config(replace_values(RunConfig(), {"recipe": "policy_gradient", **settings}), folder)
  held = params(STEPS[0])
  critic = RewardModel(loaded.model) if "critic" in held else None
  save_description(folder, loaded, critic=critic, shared=critic is not None and set(held["critic"]) == {"score"})
  with Checkpointer(folder / "checkpoints", CheckpointSettings()) as checkpointer:
    for step in STEPS:
      checkpointer.save(step, {"params": params(step)})
  return folder


@pytest.fixture(scope="module", params=["own", "shared"])
def run(request, start, tmp_path_factory):
  """(folder, params by step, whether the critic shares the policy's decoder)."""
  shared, loaded = request.param == "shared", start[1]
  critic = jax.device_get(RewardModel(loaded.model).init(jax.random.key(1)))

  def params(step):
    both = {"policy": loaded.params, "critic": {"score": critic["score"]} if shared else critic}
    return jax.tree.map(lambda x: np.asarray(x) + np.float32(step), both)

  return write_run(tmp_path_factory.mktemp(request.param) / "run", start, params), params, shared


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert np.asarray(a).dtype == np.float32
    np.testing.assert_array_equal(a, b)


def critic_params(params, shared):
  decoder = params["policy"] if shared else params["critic"]
  return {n: x for n, x in decoder.items() if n not in ("head", "score")} | {"score": params["critic"]["score"]}


@pytest.mark.slow
@pytest.mark.parametrize("step", [None, *STEPS])
def test_policy_and_critic_of_a_run_or_a_checkpoint_come_back_exactly(run, start, step):
  folder, params, shared = run
  path = folder if step is None else folder / "checkpoints" / str(step)
  held = params(STEPS[-1] if step is None else step)
  model, policy, tokenizer = load_model(path)
  assert model == start[1].model
  assert_same(policy, held["policy"])
  critic = load_critic(path)
  assert critic.model == RewardModel(start[1].model)
  assert_same(critic.params, critic_params(held, shared))
  assert tokenizer.fingerprint() == critic.tokenizer.fingerprint() == start[1].tokenizer.fingerprint()
  assert has_critic(path)


def critic_of(start, path, folders=None):
  """What a stage's critic starts from, as the recipe asks for it."""
  config = replace_values(
    RunConfig(),
    {
      "recipe": "policy_gradient",
      "model.path": str(start[0]),
      "rollout.reward": "length",
      "policy_gradient.critic_path": str(path),
    },
  )
  found = critic_start(Inputs(config, folders or {}), start[1])
  assert found is not None
  return found


@pytest.mark.slow
def test_a_critic_goes_on_from_the_critic_of_a_run_with_its_head(run, start):
  folder, params, shared = run
  for path, step in ((folder, STEPS[-1]), (folder / "checkpoints" / str(STEPS[0]), STEPS[0])):
    found = critic_of(start, path)
    assert isinstance(found.loaded.model, RewardModel)
    assert_same(found.loaded.params, critic_params(params(step), shared))
    assert found.keeps_head and found.words == f"the critic of {path}, whose head is kept"


@pytest.mark.slow
def test_a_critic_goes_on_from_an_exported_critic_with_its_head(run, start, tmp_path):
  folder, params, shared = run
  for name, step in (("newest", STEPS[-1]), ("first", STEPS[0])):
    options = [f"--workdir={folder}", f"--out={tmp_path / name}", "--critic", "--pad-token=word29", f"--step={step}"]
    assert main(["export", *options]) == 0
    assert has_critic(tmp_path / name)
    found = critic_of(start, tmp_path / name)
    assert_same(found.loaded.params, critic_params(params(step), shared))
    assert found.keeps_head and found.words == f"the critic of {tmp_path / name}, whose head is kept"


@pytest.mark.slow
def test_the_log_says_that_a_kept_head_and_a_normalised_reward_stand_on_two_scales(run, start):
  found = critic_of(start, run[0])
  config = replace_values(RunConfig(), {"recipe": "policy_gradient", "rollout.reward": "length"})
  (alone,) = found.sentences(config)
  said = found.sentences(replace_values(config, {"rollout.normalise": True}))
  assert said[0] == alone == f"the critic starts from the critic of {run[0]}, whose head is kept"
  assert len(said) == 2 and "rollout.normalise measures gain and bias" in said[1]
  zero = critic_of(start, start[0])
  assert len(zero.sentences(replace_values(config, {"rollout.normalise": True}))) == 1


def test_a_critic_from_another_model_starts_with_a_head_of_zeros(start, tmp_path):
  loaded = start[1]
  reward = RewardModel(loaded.model)
  trained = jax.tree.map(lambda x: np.asarray(x) + np.float32(1), reward.init(jax.random.key(2)))
  folder = tmp_path / "reward"
  folder.mkdir()
  write_config(replace_values(RunConfig(), {"recipe": "reward_model"}), folder)
  save_description(folder, LoadedModel(reward, trained, loaded.tokenizer))
  with Checkpointer(folder / "checkpoints", CheckpointSettings()) as checkpointer:
    checkpointer.save(1, {"params": trained})
  zero = np.zeros((1, loaded.model.config.hidden), np.float32)
  rloo = write_run(tmp_path / "rloo", start, lambda step: {"policy": loaded.params}, **{f"{PG}.method": "rloo"})
  zeros = "with a head of zeros"
  for path, trunk, words in (
    (folder, trained, f"the reward model {folder}, {zeros}: rewards of whole answers are no values"),
    ("", loaded.params, f"a copy of the policy, {start[0]}, {zeros}"),
    (start[0], loaded.params, f"{start[0]}: it has no critic; its policy's decoder, {zeros}"),
    (rloo, loaded.params, f"{rloo}: it has no critic; its policy's decoder, {zeros}"),
  ):
    found = critic_of(start, path)
    assert found.words == words and not found.keeps_head
    assert_same(found.loaded.params, {n: x for n, x in trunk.items() if n not in ("head", "score")} | {"score": zero})


def test_a_critic_that_reads_other_tokens_is_refused(run, start):
  words = Tokenizer.from_words([f"other{i}" for i in range(30)], eos="<eos>", unknown="<unk>")
  policy = dataclasses.replace(start[1], tokenizer=words)
  config = replace_values(
    RunConfig(),
    {"recipe": "policy_gradient", "rollout.reward": "length", "policy_gradient.critic_path": str(run[0])},
  )
  with pytest.raises(ConfigError, match=r"policy_gradient\.critic_path: .* has another tokenizer than the policy"):
    critic_start(Inputs(config), policy)


@pytest.mark.parametrize("named", [True, False])
def test_a_critic_without_positions_for_the_longest_answer_is_refused(start, named):
  """Named by its own setting, or as the reward's model."""
  folder, loaded = start
  positions = loaded.model.config.max_positions
  key = "policy_gradient.critic_path" if named else "rollout.reward"
  values = {"recipe": "policy_gradient", "model.path": str(folder), "rollout.reward": "length", "rollout.max_tokens": 9}
  values[key] = str(folder) if named else f"model:{folder}"
  inputs = Inputs(replace_values(RunConfig(), values))
  critic_start(inputs, loaded, positions)
  with pytest.raises(
    ConfigError,
    match=rf"^policy_gradient.critic_path: .*{folder.name} has {positions} positions, but the longest prompt and an answer "
    rf"of rollout.max_tokens=9 take {positions + 1}; .*more positions$",
  ):
    critic_start(inputs, loaded, positions + 1)
  shared = replace_values(inputs.config, {"policy_gradient.critic": "shared", "policy_gradient.critic_path": ""})
  critic_start(Inputs(shared), loaded, positions + 1)


def test_a_run_without_a_critic_and_a_damaged_description_are_named(start, tmp_path):
  folder = write_run(tmp_path / "rloo", start, lambda step: {"policy": start[1].params})
  assert not has_critic(folder)
  assert_same(load_model(folder)[1], start[1].params)
  with pytest.raises(
    ConfigError, match=r"rloo: there is no critic; a run of recipe=policy_gradient with .*=ppo has one"
  ):
    load_critic(folder)
  (folder / "model.json").write_text("[")
  with pytest.raises(CheckpointError, match=r"model\.json: not the description of a model .*restore it from the run"):
    has_critic(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings, beta",
  [
    ({f"{PG}.kl_coef": 0.25}, 0.25),
    ({f"{PG}.method": "rloo", f"{PG}.kl_coef": 0.5}, 0.5),
    ({f"{PG}.method": "dr_grpo", f"{PG}.kl_coef": 0.5}, 0.5),
    ({f"{PG}.kl_controller": "adaptive"}, "kl_controller=adaptive, so the weight of KL changed on the way"),
    ({f"{PG}.kl_coef": 0.0}, "kl_coef=0, so no KL weighed against its reward"),
    ({f"{PG}.method": "grpo"}, "method=grpo, which divides by the spread of a prompt's scores, so no one beta fits"),
    ({"recipe": "online", "loss.beta": 0.3}, 0.3),
    ({"recipe": "sft"}, "trained with, which its folder does not say"),
  ],
)
def test_beta_is_that_of_the_folder_or_asked_for(start, tmp_path, settings, beta):
  folder = write_run(tmp_path / "run", start, lambda step: {"policy": start[1].params}, **settings)
  if isinstance(beta, float):
    assert beta_of_run(folder) == beta
  else:
    with pytest.raises(ConfigError) as caught:
      beta_of_run(folder)
    text = str(caught.value)
    assert text.startswith("--score=implicit needs --beta=B") and str(folder) in text and text.endswith(beta)


def test_the_reference_is_where_the_policy_started(run, start):
  found = find_reference(run[0])
  assert found.name == str(start[0])
  assert_same(found.load().params, start[1].params)
