"""What a stage was made from is known again: each change of it, between two starts or between two stages, is named."""

import contextlib
import dataclasses
import gzip
import json
import os
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpojax.config.load import load_config
from dpojax.errors import InputError
from dpojax.sweeps.stages import run
from dpojax.training.stage_record import read_record, write_record
from tests.recipes.staged import tiny
from tests.training.runs import write_config, write_tiny_model

pytestmark = pytest.mark.slow

SHORT = {
  "train.steps": 4,
  "checkpoint.every": 2,
  "evaluation.every": 0,
  "monitor.every": 0,
  "monitor.prompts": 2,
}
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@contextlib.contextmanager
def restored(folder):
  """Puts every file of a folder back as it was, its time of change too."""
  kept = folder.with_name(folder.name + ".kept")
  shutil.copytree(folder, kept)
  try:
    yield
  finally:
    shutil.rmtree(folder)
    os.rename(kept, folder)


def refused(config, workdir, **options):
  with pytest.raises(InputError) as caught:
    run(config, workdir, **options)
  return str(caught.value)


# --- one stage, started again


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """(folder of everything, config file) of a run that has ended and whose reference is a model of its own."""
  folder = tmp_path_factory.mktemp("one") / "all"
  folder.mkdir()
  file = write_config(folder, **SHORT)
  shutil.copytree(folder / "model", folder / "reference")
  scale_weights(folder / "reference", 1.5)
  (folder / "template.jinja").write_text(TEMPLATE)
  run(settings(file), folder / "run")
  return folder, file


def settings(file, **changes):
  values = {"reference.path": str(file.parent / "reference"), "data.template": str(file.parent / "template.jinja")}
  return load_config(str(file), values | {key.replace("__", "."): value for key, value in changes.items()})


def scale_weights(folder, factor):
  file = next(folder.glob("*.safetensors"))
  save_file({name: (tensor * factor).astype(tensor.dtype) for name, tensor in load_file(file).items()}, file)


def edit_rows(folder, edit):
  file = folder / "pairs.jsonl.gz"
  rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]
  rows = edit(rows)
  file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def edit_json(file, edit):
  value = json.loads(file.read_text())
  edit(value)
  file.write_text(json.dumps(value))


def swap(rows):
  return [row | {"chosen_ids": row["rejected_ids"], "rejected_ids": row["chosen_ids"]} for row in rows]


def change_a_token(rows):
  rows[7]["chosen_ids"][0] = (rows[7]["chosen_ids"][0] + 1) % 30
  return rows


def swap_words(tokenizer):
  words = tokenizer["model"]["vocab"]
  words["word3"], words["word4"] = words["word4"], words["word3"]


def rename_eos(config):
  config["unk_token"] = "word5"


OF_ONE = {
  "chosen and rejected swapped": (lambda f: edit_rows(f, swap), r"training data: changed \(36 examples\)"),
  "ten rows fewer": (lambda f: edit_rows(f, lambda rows: rows[:-10]), r"training data: 36 examples -> 27 examples"),
  "ten rows more": (lambda f: edit_rows(f, lambda rows: rows + swap(rows[:10])), r"training data: 36 examples -> "),
  "one token": (lambda f: edit_rows(f, change_a_token), r"(training|held-out) data: changed"),
  "rows in another order": (lambda f: edit_rows(f, lambda rows: rows[::-1]), r"training data: changed"),
  "weights of rows": (
    lambda f: edit_rows(f, lambda rows: [row | {"weight": 1 + i % 2} for i, row in enumerate(rows)]),
    r"training data: changed",
  ),
  "scaled weights": (lambda f: scale_weights(f / "model", 1.01), r"weights: changed"),
  "the models' config": (
    lambda f: [
      edit_json(f / name / "config.json", lambda c: c.update(rms_norm_eps=1e-3)) for name in ("model", "reference")
    ],
    r"model: changed",
  ),
  "two words of the tokenizer": (
    lambda f: edit_json(f / "model" / "tokenizer.json", swap_words),
    r"tokenizer: changed",
  ),
  "a special token": (
    lambda f: edit_json(f / "model" / "tokenizer_config.json", rename_eos),
    r"tokenizer: changed",
  ),
  "the template": (lambda f: (f / "template.jinja").write_text(TEMPLATE + "\n"), r"template: changed"),
  "the reference's weights": (lambda f: scale_weights(f / "reference", 2.0), r"reference: changed"),
  "the reference's shape": (
    lambda f: (shutil.rmtree(f / "reference"), write_tiny_model(f / "reference", hidden=32)),
    r"reference.path: .* is a model of another shape",
  ),
  "the record": (lambda f: (f / "run" / "stage.json").write_text("{"), r"stage.json: damaged"),
}


@pytest.mark.sampled(14)
@pytest.mark.parametrize("begun", [False, True], ids=["ended", "begun"])
@pytest.mark.parametrize("case", OF_ONE)
def test_a_run_that_is_started_again_names_what_changed(one, case, begun):
  folder, file = one
  change, message = OF_ONE[case]
  with restored(folder):
    if begun:
      write_record(folder / "run", dataclasses.replace(read_record(folder / "run"), ended=None))
    change(folder)
    said = refused(settings(file), folder / "run")
    assert re.search(message, said), said
    if "damaged" not in said and "shape" not in said:
      assert said.startswith(f"{folder / 'run'} holds a run of other settings or inputs (")
      assert "data" in message or " data: " not in said  # what follows from another change has no line of its own


def test_what_was_not_changed_is_skipped_or_gone_on_with(one):
  folder, file = one
  with restored(folder):
    before = (folder / "run" / "metrics.jsonl").read_bytes()
    assert run(settings(file), folder / "run").reason == "finished"
    os.utime(folder / "pairs.jsonl.gz")  # touched, but the same
    assert run(settings(file), folder / "run").reason == "finished"
    assert (folder / "run" / "metrics.jsonl").read_bytes() == before


def test_a_change_can_be_allowed(one):
  folder, file = one
  with restored(folder):
    edit_rows(folder, swap)
    assert run(settings(file, train__steps=6), folder / "run", allow_config_change=True).step == 6
    assert run(settings(file, train__steps=6), folder / "run").step == 6


def test_metrics_that_were_cut_are_noticed(one, capsys):
  folder, file = one
  with restored(folder):
    metrics = folder / "run" / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(line for line in lines if b'"step": 2, "split": "train"' not in line))
    assert f"{metrics}: it is not what the stage wrote" in refused(settings(file), folder / "run")
    write_record(folder / "run", dataclasses.replace(read_record(folder / "run"), ended=None))
    run(settings(file), folder / "run")
    said = "it was cut; the records of 1 of the 4 steps taken are gone, the first of them step 2"
    assert said in (folder / "run" / "log.txt").read_text()


# --- between stages


@pytest.fixture(scope="module")
def several(tmp_path_factory):
  """The folder of an experiment whose first two stages have ended."""
  folder = tmp_path_factory.mktemp("several") / "all"
  run(tiny(), folder, until="pairs")
  return folder


def edit_lines(file, edit):
  lines = file.read_text().splitlines(keepends=True)
  file.write_text("".join(edit(lines)))


def scale_checkpoint(folder, factor):
  """A checkpoint that is sound, of other weights."""
  import jax

  from dpojax.config.schema import CheckpointSettings
  from dpojax.training.checkpoint import Checkpointer, read_leaves
  from dpojax.training.manifest import read_manifest

  place = folder / "checkpoints"
  leaves = read_manifest(place / "3").leaves
  wanted = {name: jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for name, (dtype, shape) in leaves.items()}
  arrays = read_leaves(place / "3", wanted)
  shutil.rmtree(place)
  with Checkpointer(place, CheckpointSettings()) as checkpointer:
    state = {}
    for name, array in arrays.items():
      *parents, last = name.split("/")
      node = state
      for parent in parents:
        node = node.setdefault(parent, {})
      node[last] = array * factor if name.startswith("params/") else array
    checkpointer.save(3, state)


def flip_a_byte(folder):
  file = max((folder / "checkpoints" / "3" / "params").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


OF_SEVERAL = {
  "five pairs fewer": (
    lambda f: edit_lines(f / "pairs" / "pairs.jsonl", lambda lines: lines[:-5]),
    r"pairs/pairs.jsonl: it is not what the stage wrote",
  ),
  "pairs swapped": (
    lambda f: edit_lines(f / "pairs" / "pairs.jsonl", lambda lines: [*lines[1:], lines[0]]),
    r"pairs/pairs.jsonl: it is not what the stage wrote",
  ),
  "a torn last pair": (
    lambda f: edit_lines(f / "pairs" / "pairs.jsonl", lambda lines: [*lines[:-1], lines[-1][:20]]),
    r"pairs/pairs.jsonl: it is not what the stage wrote",
  ),
  "pairs gone": (lambda f: (f / "pairs" / "pairs.jsonl").unlink(), r"pairs/pairs.jsonl: it is gone"),
  "rankings cut": (
    lambda f: edit_lines(f / "pairs" / "rankings.jsonl", lambda lines: lines[1:]),
    r"pairs/rankings.jsonl: it is not what the stage wrote",
  ),
  "weights scaled": (
    lambda f: scale_checkpoint(f / "sft", 1.01),
    r"sft/checkpoints/3: its weights are not those that the stage ended with",
  ),
  "a byte of the weights flipped": (lambda f: flip_a_byte(f / "sft"), r"damaged, its SHA-256 is not the one"),
  "the checkpoint gone": (
    lambda f: shutil.rmtree(f / "sft" / "checkpoints" / "3"),
    r"--only=dpo starts from stage sft, which has not ended",
  ),
  "the model's description": (
    lambda f: edit_json(f / "sft" / "model.json", lambda c: c.update(norm_epsilon=1e-3)),
    r"sft/model.json: it is not what the stage wrote",
  ),
  "the tokenizer": (
    lambda f: edit_lines(f / "sft" / "tokenizer" / "tokenizer.json", lambda lines: [*lines, " "]),
    r"sft/tokenizer/tokenizer.json: it is not what the stage wrote",
  ),
  "a template added": (
    lambda f: (f / "sft" / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE),
    r"sft/tokenizer/chat_template.jinja: the stage did not write it",
  ),
  "metrics cut": (
    lambda f: edit_lines(f / "sft" / "metrics.jsonl", lambda lines: lines[:-1]),
    r"sft/metrics.jsonl: it is not what the stage wrote",
  ),
  "the record gone": (
    lambda f: (f / "pairs" / "stage.json").unlink(),
    r"pairs/stage.json: it is gone",
  ),
  "the record damaged": (lambda f: (f / "sft" / "stage.json").write_text("null"), r"sft/stage.json: damaged"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", OF_SEVERAL)
def test_a_stage_does_not_start_from_what_another_did_not_leave(several, case):
  change, message = OF_SEVERAL[case]
  with restored(several):
    change(several)
    said = refused(tiny(), several, only="dpo")
    assert re.search(message, said), said
    assert not (several / "dpo" / "checkpoints").exists()


@pytest.mark.long
def test_a_stage_made_anew_from_other_settings_is_not_what_the_next_one_started_from(several):
  with restored(several):
    run(tiny(), several)
    shutil.rmtree(several / "pairs")
    other = tiny(pairs__pairs__seed=5)
    run(other, several, only="pairs")
    assert "data.path: stage pairs was made anew from other settings or data since" in refused(other, several)


def test_a_stage_alone_does_not_start_from_one_of_other_settings(several):
  with restored(several):
    said = refused(tiny(sft__train__steps=4), several, only="dpo")
    assert f"{several / 'sft'} holds a run of other settings or inputs (train.steps: 3 -> 4)" in said


@pytest.mark.long
def test_a_stage_made_anew_the_same_is_what_it_was(several):
  with restored(several):
    run(tiny(), several)
    before = (several / "dpo" / "metrics.jsonl").read_bytes()
    shutil.rmtree(several / "pairs")
    run(tiny(), several)
    assert (several / "dpo" / "metrics.jsonl").read_bytes() == before
