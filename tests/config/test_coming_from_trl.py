"""The page for people who come from TRL says what the program answers, and leaves out no option of theirs."""

import importlib.util
import pathlib
import re

import pytest

from dpojax.config.check import check_value
from dpojax.config.foreign_keys import FAMILIES, FOREIGN, MISSING, NEEDLESS, TRAINING, VALUES
from dpojax.config.keys import check_key, fields_by_key, last_parts
from dpojax.errors import ConfigError
from dpojax.losses import LOSSES, get_loss
from dpojax.losses.foreign_names import ELSEWHERE, FOREIGN_LOSSES, SAME_LOSSES
from dpojax.losses.spec import loss_spec, parse_losses

HERE = pathlib.Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
LINES = (HERE / "trl_options.txt").read_text().splitlines()
OPTIONS = {name: line.partition(":")[0] for line in LINES[1:] for name in line.partition(":")[2].split()}
KEY = re.compile(
  rf"\b(?:{'|'.join(sorted({key.partition('.')[0] for key in fields_by_key() if '.' in key}))})\.[a-z_0-9]+"
)


def made():
  spec = importlib.util.spec_from_file_location("make_coming_from_trl", DOCS / "make_coming_from_trl.py")
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_page_is_what_its_script_makes():
  assert (DOCS / "coming_from_trl.md").read_text(encoding="utf-8") == made().page()


def test_every_option_of_theirs_has_a_row():
  page = (DOCS / "coming_from_trl.md").read_text(encoding="utf-8")
  rows = set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))
  families = tuple(row[:-1] for row in rows if row.endswith("…"))
  missing = [name for name in OPTIONS if name not in rows and not name.startswith(families)]
  assert not missing


def test_every_option_of_theirs_is_answered_by_its_name():
  silent = []
  for name in OPTIONS:
    try:
      check_key(name)
    except ConfigError as error:
      said = str(error).partition(f"unknown key {name!r}")[2]
      if not said:
        silent.append(name)
  assert not silent


def test_what_is_named_is_there():
  """Every key, loss and value that an answer names is one of ours."""
  answers = [*FOREIGN.values(), *TRAINING.values(), *NEEDLESS.values(), *MISSING.values(), *FAMILIES.values()]
  answers += [*made().SAME.values(), *FOREIGN_LOSSES.values(), *ELSEWHERE.values()]
  answers += [ours for values in VALUES.values() for ours in values.values()]
  named = {key for answer in answers for key in KEY.findall(answer) if not key.endswith((".json", ".jsonl"))}
  assert named <= set(fields_by_key())
  assert len(named) > 60
  for key, value in {pair for answer in answers for pair in re.findall(r"([a-z_]+\.[a-z_]+)=([a-z_0-9]+)\b", answer)}:
    if (choices := fields_by_key()[key].metadata["choices"]) is not None:
      assert value in choices, f"{key}={value}"


def test_an_option_has_one_answer():
  """No name stands in two tables that contradict each other, and none of ours is explained away."""
  assert not set(NEEDLESS) & (set(TRAINING) | set(FOREIGN) | set(MISSING))
  assert not set(MISSING) & (set(TRAINING) | set(FOREIGN))
  assert not (set(TRAINING) | set(NEEDLESS) | set(MISSING)) & last_parts()
  assert not any(ours.startswith(tuple(FAMILIES)) for ours in last_parts())


@pytest.mark.parametrize(
  "key, said",
  [
    ("per_device_train_batch_size", "; here it is batch.size"),
    ("train.gradient_checkpointing", "; here it is model.remat"),
    ("bf16", "; here it is model.precision=bfloat16"),
    ("use_peft", "; it is a name of TRL's: adapters (LoRA) are not trained"),
    ("lora_r", "; it is a name of TRL's: adapters (LoRA) are not trained"),
    ("packing", "; it needs no key: rows are always packed"),
    ("learning_rate", "; did you mean 'optimizer.learning_rate'?"),
    ("quite_something_else", ""),
  ],
)
def test_answers(key, said):
  with pytest.raises(ConfigError) as caught:
    check_key(key)
  assert str(caught.value).startswith(f"unknown key {key!r}{said}")
  if not said:
    assert str(caught.value) == f"unknown key {key!r}"


@pytest.mark.parametrize("key, value", [(key, value) for key, values in VALUES.items() for value in values])
def test_their_values_lead_to_ours(key, value):
  with pytest.raises(ConfigError) as caught:
    check_value(key, value)
  assert str(caught.value).endswith(f"got {value!r}; here it is {VALUES[key][value]}")


def test_their_losses_lead_to_ours():
  assert set(SAME_LOSSES) <= set(LOSSES)
  assert not (set(FOREIGN_LOSSES) | set(ELSEWHERE)) & set(LOSSES)
  for name, ours in FOREIGN_LOSSES.items():
    with pytest.raises(ConfigError, match=f"; here it is {re.escape(ours)}$"):
      get_loss(name)
    first = re.split(r"[ ,]", ours)[0]
    assert first in (*LOSSES, "a"), ours
  with pytest.raises(ConfigError, match="; here it is no loss: recipe=policy_gradient"):
    loss_spec("grpo")
  with pytest.raises(ConfigError, match=r"; did you mean 'dpo'\?$"):
    get_loss("dop")


@pytest.mark.parametrize("text", ["['sigmoid', 'sft']", "[sigmoid,sft]", "sigmoid, sft"])
def test_their_list_of_losses_is_a_sum_of_ours(text):
  with pytest.raises(ConfigError, match=r"; write 'dpo \+ sft', with weights such as 0.2\*NAME$"):
    parse_losses(text)
  assert [term.name for term in parse_losses("dpo + sft")] == ["dpo", "sft"]
