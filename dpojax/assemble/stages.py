"""The stages before the main one: supervised fine-tuning, and pairs that the fine-tuned model writes."""

import dataclasses
import json
import pathlib

from dpojax.assemble.pieces import Loaded
from dpojax.config.record import check_unchanged, write_config
from dpojax.config.schema import (
  DataSettings,
  EvaluationSettings,
  OptimizerSettings,
  PairsSettings,
  RunConfig,
  TrainSettings,
)
from dpojax.data.dataset import encode_prompts
from dpojax.data.worlds import World, get_world, pair_rows, ranking_rows
from dpojax.sampling.generate import generate
from dpojax.types import Answers


def sft_config(config: RunConfig) -> RunConfig:
  """The settings of the supervised stage; nothing in them depends on the loss, so points of a sweep share it."""
  sft = config.sft
  return RunConfig(
    objective="sft",
    model=config.model,
    data=config.data,
    batch=dataclasses.replace(config.batch, size=sft.batch_size, seed=sft.seed),
    optimizer=OptimizerSettings(learning_rate=sft.learning_rate, warmup_steps=sft.warmup_steps, schedule="cosine"),
    train=TrainSettings(steps=sft.steps, log_every=config.train.log_every),
    parallel=config.parallel,
    logging=config.logging,
    sft=dataclasses.replace(sft, steps=0),
  )


def write_pairs(
  config: RunConfig, loaded: Loaded, prelude: pathlib.Path, answers: Answers = Answers.PAIR
) -> list[dict]:
  """Rows of the pairs stage: read from a folder of `prelude` where they are already, else written by the model.

  Args:
    answers: what a row is to hold; unpaired answers are made of pairs.

  The file appears only when it is complete, so a run that was killed here starts the stage again.

  Raises:
    ConfigError: the folder holds pairs made with other settings.
  """
  form = {Answers.RANKING: "rankings", Answers.TRIPLE: "triples"}.get(answers, "pairs")
  folder = prelude / form
  file = folder / f"{form}.jsonl"
  made_with = RunConfig(
    model=config.model,
    data=config.data,
    sft=config.sft,
    pairs=config.pairs,
    evaluation=EvaluationSettings(max_tokens=config.evaluation.max_tokens),
  )
  check_unchanged(made_with, folder)
  if not file.exists():
    folder.mkdir(parents=True, exist_ok=True)
    write_config(made_with, folder)
    world = get_world(config.data.name)
    rows = _new_rows(config.pairs, config.data, config.evaluation.max_tokens, world, loaded, answers)
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.rename(file)
  return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _new_rows(
  settings: PairsSettings, data: DataSettings, max_tokens: int, world: World, loaded: Loaded, answers: Answers
) -> list[dict]:
  prompts = world.prompts(settings.prompts, settings.seed)
  tokens = encode_prompts(prompts, data, loaded.tokenizer)
  samples = generate(
    loaded.model,
    loaded.params,
    [ids for ids in tokens for _ in range(settings.samples)],
    max_tokens=max_tokens,
    eos_id=loaded.tokenizer.eos_ids,
    temperature=settings.temperature,
    seed=settings.seed,
    batch_size=512,
  )
  written = [loaded.tokenizer.decode(s.tokens, skip_special_tokens=True) for s in samples]
  grouped = [written[i : i + settings.samples] for i in range(0, len(written), settings.samples)]
  if answers in (Answers.RANKING, Answers.TRIPLE):
    return ranking_rows(world, prompts, grouped, settings.label, settings.seed, size=answers.number or 0)
  return pair_rows(world, prompts, grouped, label=settings.label, seed=settings.seed)
