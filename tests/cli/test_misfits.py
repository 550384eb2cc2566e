"""Models that cannot be computed with: weights that are no numbers, a tokenizer larger than the embedding.

Each is named where it is loaded or read, by every command, and no row with such a token reaches the model.
"""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from tiny_model import TEMPLATE, WORDS, TinyModel

from dpojax.cli.main import main
from dpojax.data.examples import TokenDataset
from dpojax.errors import DataError, WeightsError
from dpojax.interop.files import write_model_folder
from dpojax.interop.finite import check_finite
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.weights import load_model, tensors_from_params
from dpojax.rollout.sampler import generate
from dpojax.scoring import score_answers
from tests.training.runs import write_config

SIZE = len(WORDS) + 1  # with "<end>"


def tiny(folder, tokenizer=None, damage=None, max_shard_bytes=10**9, dtype=np.float32):
  """A model folder with another tokenizer, or with some weights changed: {tensor: (place, value)}."""
  made = TinyModel(folder)
  tensors = {name: value.astype(dtype) for name, value in tensors_from_params(made.model.config, made.params).items()}
  for name, changes in (damage or {}).items():
    tensors[name] = np.array(tensors[name])
    for place, value in changes:
      tensors[name].flat[place] = value
  for file in folder.glob("*.safetensors"):
    file.unlink()
  config = made.model.config.to_transformers()
  write_model_folder(folder, config, tensors, tokenizer or made.tokenizer, {}, max_shard_bytes=max_shard_bytes)
  return str(folder)


def words(*more, **options):
  return Tokenizer.from_words([*WORDS, *more], **{"eos": "<end>", "chat_template": TEMPLATE} | options)


# --- weights


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize(
  "values, found",
  [
    ([], None),
    ([np.nan], "1 NaN"),
    ([np.inf, -np.inf], "2 infinite"),
    ([-np.inf, np.nan, np.nan], "2 NaN and 1 infinite"),
  ],
)
def test_what_is_not_finite_is_counted(dtype, values, found):
  tensor = np.linspace(-3, 3, 1000).astype(dtype).reshape(10, 100)
  tensor[0, 0] = ml_dtypes.finfo(dtype).max if dtype != np.float64 else 3e38
  tensor[1, : len(values)] = values
  if found is None:
    return check_finite(tensor, "q", "file")
  with pytest.raises(WeightsError, match=f"^file: tensor q is not finite: of its 1,000 numbers {found};"):
    check_finite(tensor, "q", "file")


def test_a_number_too_large_for_float32_is_infinite():
  with pytest.raises(WeightsError, match="1 infinite"):
    check_finite(np.array([1e300]), "q", "file")
  check_finite(np.array([2**60]), "ids", "file")
  check_finite(np.zeros((0, 3), np.float16), "empty", "file")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
  "name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"]
)
def test_the_file_of_a_shard_is_named(tmp_path, name, dtype):
  path = tiny(tmp_path / "model", damage={name: [(0, np.nan), (1, np.inf)]}, max_shard_bytes=2000, dtype=dtype)
  index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
  shard = index["weight_map"][name]
  with pytest.raises(
    WeightsError, match=rf"{re.escape(shard)}: tensor {re.escape(name)} is not finite.* 1 NaN and 1 inf"
  ):
    load_model(path)


def test_every_command_says_so(tmp_path, capsys):
  path = tiny(tmp_path / "model", damage={"model.norm.weight": [(3, np.nan)]})
  config = write_config(tmp_path / "run", **{"model.path": path})
  for command in (
    ["sample", f"--model={path}", "--prompt=is my parcel"],
    ["train", f"--config={config}", f"--workdir={tmp_path / 'workdir'}"],
  ):
    assert main(command) == 2
    assert "model.safetensors: tensor model.norm.weight is not finite" in capsys.readouterr().err


# --- vocabularies


def test_a_tokenizer_of_the_embeddings_size_is_loaded_in_silence(tmp_path, capsys):
  load_model(tiny(tmp_path / "model"))
  load_model(tiny(tmp_path / "model", Tokenizer.from_words(WORDS[:-1], eos="<end>")))
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
  "tokenizer, named",
  [
    (words("<unk>", eos="<end>", unknown="<unk>"), f"unk_token '<unk>' (id {SIZE})"),
    (words("more").with_pad_token("more"), f"pad_token 'more' (id {SIZE})"),
    (Tokenizer.from_words(["a", *WORDS, "z", "<end>"], eos="<end>"), f"eos_token '<end>' (id {SIZE + 1})"),
  ],
)
def test_a_token_that_is_sure_to_be_met_is_an_error(tmp_path, tokenizer, named):
  path = tiny(tmp_path / "model", tokenizer)
  sizes = f"ids go up to {tokenizer.vocab_size - 1}, but the model's embedding has {SIZE} rows"
  with pytest.raises(
    WeightsError, match=f"{re.escape(path)}: the tokenizer's {sizes}; the {re.escape(named)} has none"
  ):
    load_model(path)


def test_a_token_of_the_chat_template_is_an_error(tmp_path):
  path = tiny(tmp_path / "model")
  file = tmp_path / "model" / "tokenizer_config.json"
  config = json.loads(file.read_text())
  config["added_tokens_decoder"] = {str(SIZE): {"content": "<start>", "special": True}}
  file.write_text(json.dumps(config))
  load_model(path)  # the template does not write it
  template = tmp_path / "model" / "chat_template.jinja"
  template.write_text("<start> " + template.read_text())
  with pytest.raises(WeightsError, match=f"the token of the chat template '<start>' \\(id {SIZE}\\) has none"):
    load_model(path)


@pytest.mark.slow
def test_other_tokens_are_a_line_and_a_row_that_holds_one_an_error(tmp_path, capsys):
  path = tiny(tmp_path / "model", words("extra", "more"))
  fine = {"prompt": "is my parcel", "chosen": "yes", "rejected": "sorry"}
  data = tmp_path / "rows.jsonl"

  def run(command, *rows):
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = main([*command, f"--model={path}"])
    return code, capsys.readouterr().err

  line = f"{path}: the tokenizer's ids go up to {SIZE + 1}, but the model's embedding has {SIZE} rows: a row of data "
  line += f"with 'extra' (id {SIZE}) and 1 more is an error\n"
  refused = f"rows.jsonl:2: token 'more' (id {SIZE + 1}) is none of the model's: its embedding has {SIZE} rows, "
  refused += f"the tokenizer {SIZE + 2} tokens"
  score = ["score", f"--data={data}", f"--out={tmp_path / 'scores.jsonl'}"]
  evaluate = ["eval", f"--data={data}", f"--out={tmp_path / 'eval'}", "--score=sum"]
  for command in (score, evaluate):
    code, error = run(command, fine)
    assert code == 0 and error.startswith(f"dpojax: {line}")
    for place in fine:
      code, error = run(command, fine, fine | {place: f"{fine[place]} more"})
      assert code == 2 and refused in error
  code, error = run(["sample", "--prompt=is my parcel", "--prompt=more", "--max-tokens=2"])
  assert code == 2 and f"prompt 1: token 'more' (id {SIZE + 1})" in error


def test_training_refuses_the_row(tmp_path, capsys):
  path = tiny(tmp_path / "model", words("extra"))
  rows = [{"prompt": "is my parcel", "chosen": f"yes {word}", "rejected": "sorry"} for word in ("we", "extra")]
  data = tmp_path / "rows.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows * 20))
  changes = {"model.path": path, "data.path": str(data), "batch.row_length": 40}
  config = write_config(tmp_path / "run", **changes)
  config.write_text(config.read_text())
  assert main(["train", f"--config={config}", f"--workdir={tmp_path / 'workdir'}"]) == 2
  assert f"rows.jsonl:2: token 'extra' (id {SIZE}) is none of the model's" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [SIZE, -1, 2**31 - 1])
@pytest.mark.parametrize("place", ["prompt", "first answer", "last answer"])
def test_examples_made_in_python_are_checked_too(tmp_path, wrong, place):
  model, params, tokenizer = load_model(tiny(tmp_path / "model"))
  parts = {"prompt": [1, 2], "first answer": [3, 4], "last answer": [SIZE - 1, 0]}
  sound = TokenDataset.from_examples([(parts["prompt"], [parts["first answer"], parts["last answer"]])])
  sound.check_vocabulary(SIZE, tokenizer)
  parts[place][1] = wrong
  dataset = TokenDataset.from_examples(
    [sound[0], (parts["prompt"], [parts["first answer"], parts["last answer"]])], metadata=[{}, {"row": "f:7"}]
  )
  with pytest.raises(DataError, match=rf"^f:7: token .*\(id {wrong}\)"):
    dataset.check_vocabulary(SIZE, tokenizer)
  with pytest.raises(
    DataError, match=rf"^f:7: token \(id {wrong}\) is none of the model's: its embedding has {SIZE} rows;"
  ):
    score_answers(model, params, dataset)
  with pytest.raises(DataError, match=rf"^prompt 1: token \(id {wrong}\)"):
    generate(model, params, [np.int32([1]), np.int32([1, wrong])], max_tokens=2, eos_id=None)


def test_an_empty_data_set_has_no_wrong_ids():
  TokenDataset.from_examples([]).check_vocabulary(1)
