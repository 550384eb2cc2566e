"""The stages before the main one: supervised fine-tuning, and pairs that the fine-tuned model writes."""

import dataclasses
import json
import pathlib

from dpojax.assemble.pieces import Loaded, encode_prompts
from dpojax.config.schema import DataSettings, OptimizerSettings, PairsSettings, RunConfig, TrainSettings
from dpojax.data.worlds import World, get_world, pair_rows
from dpojax.sampling.generate import generate


def sft_config(config: RunConfig) -> RunConfig:
  """The settings of the supervised stage: those of the main one but for its data, length and learning rate."""
  sft = config.sft
  return dataclasses.replace(
    config,
    objective="sft",
    seed=0,
    batch=dataclasses.replace(config.batch, size=sft.batch_size, seed=sft.seed),
    optimizer=OptimizerSettings(learning_rate=sft.learning_rate, warmup_steps=sft.warmup_steps, schedule="cosine"),
    train=dataclasses.replace(TrainSettings(), steps=sft.steps, log_every=config.train.log_every),
    evaluation=dataclasses.replace(config.evaluation, prompts=0, every=0, policy_every=0),
    stop=dataclasses.replace(config.stop, patience=0),
    checkpoint=dataclasses.replace(config.checkpoint, best_metric="", every=0),
    reference=RunConfig().reference,
    pairs=dataclasses.replace(config.pairs, prompts=0),
    sft=dataclasses.replace(sft, steps=0),
  )


def write_pairs(config: RunConfig, loaded: Loaded, folder: pathlib.Path) -> list[dict]:
  """Rows of the pairs stage: read from `folder` where they are already, else written by the model.

  The file appears only when it is complete, so a run that was killed here starts the stage again.
  """
  file = folder / "pairs.jsonl"
  if not file.exists():
    folder.mkdir(parents=True, exist_ok=True)
    rows = _new_pairs(config.pairs, config.data, config.evaluation.max_tokens, get_world(config.data.name), loaded)
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.rename(file)
  return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _new_pairs(settings: PairsSettings, data: DataSettings, max_tokens: int, world: World, loaded: Loaded) -> list[dict]:
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
  answers = [loaded.tokenizer.decode(s.tokens, skip_special_tokens=True) for s in samples]
  grouped = [answers[i : i + settings.samples] for i in range(0, len(answers), settings.samples)]
  return pair_rows(world, prompts, grouped, label=settings.label, seed=settings.seed)
