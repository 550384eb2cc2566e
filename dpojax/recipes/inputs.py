"""What a stage starts from: models, tokenised data and earlier stages, each read once in a process."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from dpojax.config.experiment import names_in, reward_specs, sources
from dpojax.config.keys import STAGE, is_stage, reads_section
from dpojax.config.schema import ModelSettings, RunConfig
from dpojax.data.splits import Splits, as_the_loss_reads, read_splits
from dpojax.data.templates import with_template
from dpojax.environments import Environment, get_environment, sft_rows
from dpojax.errors import CheckpointError, ConfigError
from dpojax.files import expanded
from dpojax.interop import hub
from dpojax.interop.tokenizer import Tokenizer
from dpojax.losses.own import described as described_losses
from dpojax.models.config import ModelConfig
from dpojax.models.memory import check_row_group
from dpojax.models.reward_model import RewardModel
from dpojax.recipes.given import Given, is_given
from dpojax.report.records import read_lines
from dpojax.rewards.build import build
from dpojax.rewards.judge import build_judge
from dpojax.rewards.reward import Judge, Reward
from dpojax.rewards.spec import read_judge, read_reward, read_rewards
from dpojax.rewards.terms import RewardSpec
from dpojax.training.model_files import (
  CHECKPOINTS,
  LoadedModel,
  files_of_model,
  load,
  new_model,
)
from dpojax.training.optimizer import make_optimizer
from dpojax.training.run_reference import compared_with
from dpojax.training.stage_record import Ended, Fingerprint, Source, check_files, read_record
from dpojax.training.update import GradientTransformation
from dpojax.types import Answers, Declared

PAIRS = "pairs.jsonl"
# What a stage of recipe=pairs writes, by what an example is to hold.
PAIRS_FILES = {Answers.RANKING: "rankings.jsonl", Answers.TRIPLE: "triples.jsonl"}

UNCHECKED = "parts given in Python"  # what has a name and no fingerprint

REFERRING = ("preference", "policy_gradient", "online")  # recipes whose policy has a reference

Memory = dict[Any, Any]


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Inputs of one stage.

  Attributes:
    config: settings of the stage.
    folders: of the earlier stages, by name.
    memory: what the stages of this process have read, by all that decides it.
    given: what a Python program gives in the place of paths and settings.
  """

  config: RunConfig
  folders: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
  memory: Memory = dataclasses.field(default_factory=dict)
  given: Given = Given()

  def sources(self, folder: pathlib.Path) -> dict[str, Source]:
    """The earlier stages that this one, in `folder`, starts from, by the setting that names each.

    Raises:
      ConfigError: one has not ended.
    """
    found = {}
    for key, name in sources(self.config).items():
      record = read_record(self.folders[name])
      if record is None or record.ended is None:
        raise ConfigError(f"{key}=stage:{name}: that stage has not ended in {self.folders[name]}; run it first")
      relative = pathlib.Path(os.path.relpath(self.folders[name], folder)).as_posix()
      found[key] = Source(name, relative, record.identity)
    return found

  def policy(self) -> LoadedModel:
    """The model that the stage starts from: of `model.path`, or new with the environment's words.

    Its tokenizer carries the chat template that the stage uses, and so it goes with the run.

    Raises:
      CheckpointError: the earlier stage no longer holds the weights that it ended with.
    """
    config = self.config
    settings, live = config.model, config.recipe in REFERRING and config.reference.kind == "live"
    key = ("policy", settings, self.identity(settings.path), config.batch.row_length, config.data.template, live)
    key = (*key, "" if settings.path else config.data.name)
    if key not in self.memory:
      loaded = self.load(settings.path, settings) if settings.path else new_model(config)
      if reads_section(config.recipe, "batch.rows") and isinstance(loaded.model.config, ModelConfig):
        check_row_group(loaded.model.config, config.batch.rows, config.batch.row_length)
      loaded = dataclasses.replace(loaded, tokenizer=with_template(loaded.tokenizer, config.data.template))
      if live and jax.device_count() == 1:
        # A live reference is these very arrays; a second copy on the host would serve nobody.
        loaded = dataclasses.replace(loaded, params=jax.device_put(loaded.params))
      self.memory[key] = loaded
      _ = loaded.start_digest
    return self.memory[key]

  def language_model(self) -> LoadedModel:
    """As `policy`, for stages that need a model that writes.

    Raises:
      ConfigError: it is a reward model.
    """
    loaded = self.policy()
    if isinstance(loaded.model, RewardModel):
      raise ConfigError(
        f"model.path: {self.config.model.path} is a reward model: it scores answers and writes none; give the language "
        "model that it was trained from"
      )
    return loaded

  def reference(self, policy: LoadedModel) -> LoadedModel:
    """The model of `reference.path`, or the policy where it starts.

    Raises:
      ConfigError: it has another shape than the policy.
    """
    path = self.config.reference.path
    if not path:
      return policy
    key = ("reference", path, self.identity(path))
    if key not in self.memory:
      self.memory[key] = self.load(path, ModelSettings())
    loaded = self.memory[key]
    if isinstance(loaded.model, RewardModel) or loaded.model.config != policy.model.config:
      raise ConfigError(f"reference.path: {path} is a model of another shape than the policy; their ids must agree")
    return loaded

  def splits(self, policy: LoadedModel) -> Splits:
    """The training and held-out examples, as the stage's loss reads them."""
    config = self.config
    data = dataclasses.replace(config.data, template="auto")  # the policy's tokenizer carries it
    if is_stage(data.path):
      data = dataclasses.replace(data, format="auto")  # that of the prompts is not that of the pairs made from them
    if self.given.examples is not None:
      return self.as_read(self.given.examples, policy)
    facts = self._facts(policy)
    key = ("splits", data, policy.tokenizer.fingerprint(), self.identity(data.path), *facts.values())
    if key not in self.memory:
      rows = self.given.rows
      if is_stage(data.path):
        rows = self.rows(facts["answers"])
      elif data.source == "world" and rows is None:
        rows = sft_rows(get_environment(data.name), data.texts, data.seed)
      self.memory[key] = read_splits(data, policy.tokenizer, rows=rows, **facts)
    return self.memory[key]

  def as_read(self, examples: Splits, policy: LoadedModel) -> Splits:
    """Tokenised examples as the stage's loss reads them; errors as `read_splits`."""
    options = self._facts(policy)
    answers, vocab_size = options.pop("answers"), options.pop("vocab_size")
    for part in (examples.train, examples.held_out):
      part.check_vocabulary(vocab_size)
    ready = as_the_loss_reads(examples.train, answers, **options, part="the training part")
    held_out = as_the_loss_reads(examples.held_out, answers, **options, others=ready, part="the held-out part")
    return Splits(ready, held_out)

  def _facts(self, policy: LoadedModel) -> dict[str, Any]:
    """What of the stage decides how its loss reads examples."""
    config = self.config
    spec = config.loss_spec if config.recipe in ("reward_model", "preference", "online") else None
    return {
      "answers": config.answers,
      "mismatched": spec is not None and spec.reads("mismatched"),
      "loss": "+".join(spec.names) if spec else "",
      "row_length": config.batch.row_length,
      "max_positions": policy.model.config.max_positions,
      "vocab_size": policy.model.config.vocab_size,
    }

  def rewards(self, text: str, key: str, tokenizer: Tokenizer, *, mesh: Mesh | None = None) -> list[Reward]:
    """The rewards that the setting `key` names.

    Args:
      text: its value.
      tokenizer: of the policy whose answers are scored.
      mesh: the devices that score.

    Raises:
      InputError: one cannot be read or built; names the setting.
    """
    environment = self.environment()
    return [self._build(spec, tokenizer, mesh) for spec in read_rewards(text, key, environment=environment is not None)]

  def reward(self, text: str, key: str, tokenizer: Tokenizer, *, mesh: Mesh | None = None) -> Reward:
    """The one reward that the setting `key` names; arguments and errors as `rewards`."""
    return self._build(read_reward(text, key, environment=self.environment() is not None), tokenizer, mesh)

  def rows(self, answers: Answers) -> list[dict[str, Any]]:
    """What the stage that `data.path` names wrote.

    Raises:
      CheckpointError: the file is not what it wrote; names it.
    """
    folder = self._folder(self.config.data.path)
    self._ended(folder)
    return read_lines(folder / PAIRS_FILES.get(answers, PAIRS))

  def fingerprints(
    self, policy: LoadedModel, splits: Splits | None = None, reference: LoadedModel | None = None
  ) -> dict[str, Fingerprint]:
    """Of all that the stage has read."""
    tokenizer = policy.tokenizer
    described = json.dumps(policy.model.config.to_dict(), sort_keys=True)
    found = {
      "model": Fingerprint(digest_of_text(described)),
      "weights": Fingerprint(policy.digest),
      "tokenizer": Fingerprint(tokenizer.with_template(None).fingerprint(), f"{tokenizer.vocab_size:,} tokens"),
      "template": Fingerprint(digest_of_text(tokenizer.chat_template)),
    }
    if reference is not None and reference is not policy:
      found["reference"] = Fingerprint(reference.digest)
    if self.given.names:
      named = ", ".join(f"{what} {name}" for what, name in self.given.names.items())
      found[UNCHECKED] = Fingerprint(digest_of_text(named), named)
    if self.config.recipe in ("preference", "reward_model", "online") and self.config.loss_spec.own:
      own = described_losses(self.config.loss_spec.names)
      options = "; ".join(
        " ".join([name, *(f"{option} {value}" for option, value in about["options"].items())])
        for name, about in own.items()
      )
      found["own losses"] = Fingerprint(digest_of_text(json.dumps(own, sort_keys=True)), options)
    if splits is not None:
      for name, part in (("training data", splits.train), ("held-out data", splits.held_out)):
        found[name] = Fingerprint(part.fingerprint, f"{len(part):,} examples")
    return found

  def files(self) -> list[pathlib.Path]:
    """Outside files that the stage reads."""
    config = self.config
    texts = [config.data.path, config.data.eval_path]
    if config.data.template not in ("auto", "none"):
      texts.append(config.data.template)
    models = [config.model.path, config.reference.path, config.policy_gradient.critic_path]
    models += names_in(config.comparison.policies)
    for _, spec in reward_specs(config):
      texts += spec.files
      models += spec.paths
    outside = lambda path: path and not is_stage(path) and not is_given(path)  # noqa: E731
    return [expanded(path) for path in texts if outside(path)] + [
      file for path in models if outside(path) for file in files_of_model(path)
    ]

  def judge(self, text: str, key: str, tokenizer: Tokenizer, *, mesh: Mesh | None = None) -> Judge:
    """Who decides which of two answers is better, as the setting `key` says; arguments and errors as `rewards`."""
    spec = read_judge(text, key, environment=self.environment() is not None)
    return build_judge(spec, lambda reward: self._build(reward, tokenizer, mesh))

  def environment(self) -> Environment | None:
    data = self.config.data
    return get_environment(data.name) if data.source == "world" else None

  def _build(self, spec: RewardSpec, tokenizer: Tokenizer, mesh: Mesh | None) -> Reward:
    return build(
      spec,
      load=self._scorer,
      compare=self._compare,
      environment=self.environment(),
      tokenizer=tokenizer,
      mesh=mesh,
      given=self.given.rewards,
    )

  def _scorer(self, path: str) -> LoadedModel:
    """The model of a reward, read once."""
    key = ("scorer", path, self.identity(path))
    if key not in self.memory:
      self.memory[key] = self.load(path, ModelSettings())
      _ = self.memory[key].start_digest
    return self.memory[key]

  def _compare(self, path: str, reference: str, beta: float | None) -> tuple[Callable[[], LoadedModel], float]:
    """As `rewards.build.Compare`: what the policy at `path` is compared with."""
    found, beta = compared_with(str(self.place(path)), str(self.place(reference)) if reference else "", beta)
    return (lambda: self._scorer(reference)) if is_stage(reference) else found, beta

  def place(self, path: str) -> str | pathlib.Path:
    """Where a model lies."""
    if not is_stage(path):
      return path
    # Of the step that the stage ended with: an older checkpoint must not stand in for a damaged one.
    folder = self._folder(path)
    return folder / CHECKPOINTS / str(self._ended(folder).step)

  def _folder(self, path: str) -> pathlib.Path:
    return self.folders[path.removeprefix(STAGE)]

  def identity(self, path: str) -> str:
    """What a path means, so that nothing read before stands in for something else of the same name."""
    if hub.is_hub(path):
      return f"{path} {hub.commit(path)}"
    if not is_stage(path):
      return path
    record = read_record(self._folder(path))
    return "" if record is None else f"{self._folder(path)} {record.identity} {record.ended}"

  def _ended(self, folder: pathlib.Path) -> Ended:
    record = read_record(folder)
    assert record is not None and record.ended is not None  # `sources` has seen to it
    check_files(folder, record.ended)
    return record.ended

  def optimizer(self, steps: int, declared: Declared) -> GradientTransformation:
    """What updates the parameters: the settings' optimizer over so many steps, or the one that was given."""
    own = self.given.optimizer
    return make_optimizer(self.config.optimizer, steps, declared) if own is None else own

  def load(self, path: str, settings: ModelSettings) -> LoadedModel:
    if path in self.given.models:
      return self.given.models[path]
    if not is_stage(path):
      return load(path, precision=settings.precision, remat=settings.remat)
    folder, place = self._folder(path), self.place(path)
    loaded = load(place, precision=settings.precision, remat=settings.remat)
    if loaded.digest != self._ended(folder).weights:
      raise CheckpointError(
        f"{place}: its weights are not those that the stage ended with; restore it, or delete {folder} and the same "
        "command makes it anew"
      )
    return loaded


def digest_of_text(text: str | None) -> str:
  """sha256 of a text, as 64 hexadecimal digits; "" of none."""
  return "" if text is None else hashlib.sha256(text.encode()).hexdigest()
