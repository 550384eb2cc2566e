"""A whole run in one folder: earlier stages, the main stage, and the report."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax

from dpojax.assemble.pieces import (
  Data,
  Loaded,
  build_batches,
  build_data,
  build_look,
  build_model,
  build_objective,
  build_trainer,
  describe_objective,
  load_language_model,
  normalised_model,
  save_model_description,
  with_reward_head,
)
from dpojax.assemble.stages import sft_config, write_pairs
from dpojax.config.record import check_unchanged, write_config
from dpojax.config.schema import RunConfig
from dpojax.data import doctor
from dpojax.data.batches import Batches
from dpojax.errors import ConfigError
from dpojax.parallel import batch_shardings, make_mesh
from dpojax.report import write_report
from dpojax.training.cached_reference import CachedReference
from dpojax.training.loop import Loop, Outcome
from dpojax.training.reference_cache import ReferenceCache, weights_fingerprint
from dpojax.training.runlog import RunLog
from dpojax.training.step import make_score_step, place_params
from dpojax.types import Answers, PackedBatch, Params


def run(config: RunConfig, workdir: str | pathlib.Path, *, allow_config_change: bool = False) -> Outcome:
  """Runs `config` in `workdir`, from the start or from where it stopped. See `Session.run`."""
  return Session().run(config, pathlib.Path(workdir), allow_config_change=allow_config_change)


class Session:
  """Runs that share what they can: loaded models, tokenised data, earlier stages, compiled steps.

  A sweep is one session. Everything shared is looked up by the settings it depends on, so a point
  never sees what another point's settings made.
  """

  def __init__(self):
    self._loaded: dict[object, Loaded] = {}
    self._data: dict[object, Data] = {}

  def run(
    self,
    config: RunConfig,
    workdir: pathlib.Path,
    *,
    prelude: pathlib.Path | None = None,
    allow_config_change: bool = False,
  ) -> Outcome:
    """Runs all stages in `workdir` and writes its report.

    Args:
      prelude: folder of the stages before the main one; None: `workdir`. Points of a sweep share it.
      allow_config_change: go on in a folder whose run had other settings.

    Raises:
      ConfigError: the folder holds a run of other settings, or the devices do not fit them.
      InputError: anything else that the user can mend; the message says how.
    """
    prelude = workdir if prelude is None else prelude
    if not allow_config_change:
      check_unchanged(config, workdir)
    make_mesh(config.parallel)  # devices that do not fit are an error before anything is read
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(config, workdir)
    start = self.start(config, prelude)
    if start is None:
      return Outcome(0, "preempted")
    data = self.data(config, start, prelude)
    if config.objective == "reward_model":
      start = with_reward_head(config, start)
    outcome = self._stage(config, start, workdir, data)
    if outcome.reason != "preempted":
      write_report(workdir, reason=outcome.reason)
    return outcome

  def start(self, config: RunConfig, prelude: pathlib.Path) -> Loaded | None:
    """The model that the main stage starts from, after supervised fine-tuning in `prelude` where the config asks for it.

    None if that stage was asked to stop.
    """
    key = (config.model, config.data.name, config.batch.row_length, config.sft, prelude)
    if key not in self._loaded:
      loaded = build_model(config)
      if config.sft.steps:
        stage = sft_config(config)
        folder = prelude / "sft"
        folder.mkdir(parents=True, exist_ok=True)
        check_unchanged(stage, folder)
        write_config(stage, folder)
        if self._stage(stage, loaded, folder, build_data(stage, loaded)).reason == "preempted":
          return None
        loaded = Loaded(*load_language_model(folder, precision=config.model.precision, remat=config.model.remat))
      if config.reference.kind == "live" and jax.device_count() == 1:
        # A live reference is these very arrays; a second copy on the host would serve nobody.
        loaded = dataclasses.replace(loaded, params=jax.device_put(loaded.params))
      self._loaded[key] = loaded
    return self._loaded[key]

  def data(self, config: RunConfig, start: Loaded, prelude: pathlib.Path) -> Data:
    """Examples of the main stage; those that the starting model writes itself are kept in `prelude`."""
    answers = config.answers
    mismatched = answers is Answers.UNPAIRED and config.loss_spec.reads("mismatched")
    key = (answers, mismatched, config.data, config.pairs, config.sft, config.batch.row_length, config.model, prelude)
    if key not in self._data:
      pairs = write_pairs(config, start, prelude, answers) if config.pairs.prompts else None
      self._data[key] = build_data(config, start, pairs)
    return self._data[key]

  def _stage(self, config: RunConfig, loaded: Loaded, folder: pathlib.Path, data: Data) -> Outcome:
    goal = describe_objective(config)
    with RunLog(folder, log_every=config.train.log_every, tensorboard=config.logging.tensorboard) as log:
      save_model_description(folder, loaded)
      batches, held_out = build_batches(config, data)
      _describe_data(data, batches, folder, log)
      reference = self._reference(config, loaded)
      live = None
      if config.objective == "preference" and config.loss_spec.reads("reference"):
        live = reference() if config.reference.kind != "cache" else None
      if config.reference.kind == "cache":
        cache = _fill_cache(config, loaded, folder, reference(), batches, held_out, log)
        batches = CachedReference(batches, cache)
        held_out = held_out and CachedReference(held_out, cache)
      objective = build_objective(config, loaded.model)
      trainer = build_trainer(config, objective, loaded, batches, reference_params=live)
      log.total_steps = trainer.steps
      log.message(f"{goal}: {trainer.steps:,} steps of {config.batch.size}; compiling before the first")
      look = build_look(config, loaded, data, reference) if config.objective == "preference" else None
      outcome = Loop(trainer, config, folder, log, held_out, look).run()
      if config.objective == "reward_model" and outcome.reason != "preempted":
        model = normalised_model(config, loaded.model, trainer.params, data)
        save_model_description(folder, dataclasses.replace(loaded, model=model), measured_at=outcome.step)
    return outcome

  def _reference(self, config: RunConfig, loaded: Loaded) -> Callable[[], Params]:
    """A function that gives the reference's parameters: those of `reference.path`, or where the policy starts."""
    path = config.reference.path
    if not path:
      return lambda: loaded.params
    key = ("reference", path)
    if key not in self._loaded:
      model, params, tokenizer = load_language_model(path)
      if model.config != loaded.model.config:
        raise ConfigError(f"reference.path: {path} is a model of another shape than the policy; their ids must agree")
      self._loaded[key] = Loaded(model, params, tokenizer)
    return lambda: self._loaded[key].params


def _fill_cache(
  config: RunConfig,
  loaded: Loaded,
  folder: pathlib.Path,
  params: Params,
  batches: Batches,
  held_out: Batches | None,
  log: RunLog,
) -> ReferenceCache:
  """The reference's log-probs of all answers, computed where an earlier run has not stored them."""
  model = dataclasses.replace(loaded.model, precision=config.reference.precision)
  cache = ReferenceCache(
    config.reference.cache_dir or folder / "reference_cache",
    weights=weights_fingerprint(params),
    config=model.config.to_dict(),
    precision=model.precision,
    warn=log.message,
  )
  mesh = make_mesh(config.parallel)
  placed: list[Params] = []  # on the devices only when something is to be computed

  def score(batch: PackedBatch) -> jax.Array:
    if not placed:
      placed.append(place_params(params, mesh))
    return make_score_step(model)(placed[0], jax.device_put(batch, batch_shardings(mesh, batch)))

  for part in (batches, held_out):
    if part is not None:
      report = lambda done, total: log.status(f"reference log-probs: {done:,} of {total:,} answers")  # noqa: E731
      computed = cache.fill(part.dataset, score, part.shape, report)
      log.message(f"reference log-probs: {computed:,} answers computed, the others read from {cache.folder}")
  return cache


def _describe_data(data: Data, batches: Batches, folder: pathlib.Path, log: RunLog) -> None:
  """Writes what the data doctor found to data.json and says the gist."""
  found = doctor.facts(data.train, data.held_out, batches)
  (folder / "data.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
  log.message(f"data: {len(data.train):,} training and {len(data.held_out):,} held-out examples")
  log.message(doctor.gist(data.train.counts))
