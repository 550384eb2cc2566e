"""What was damaged and accepted in silence, until the table of the fuzz test was read: each is refused, by name."""

import json

import pytest

from tests.fuzz import runner
from tests.fuzz.cases import FOLDER, LOOP, Case
from tests.fuzz.configs import SEVERAL
from tests.fuzz.seeds import Seeds

TOKENIZER = ["python", "tokenizer", "model"]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
  return Seeds(tmp_path_factory.mktemp("seeds"))


@pytest.fixture
def refused(seeds, tmp_path):
  def run(command, files, said, names=("model",)):
    case = Case("accepted", "", command, files, names)
    outcome = runner.run(case, tmp_path / "case", seeds.of(case))
    assert (outcome.code, outcome.fault) == (2, ""), outcome
    assert said in outcome.said

  return run


def changed(seeds, name, change):
  value = json.loads(seeds.files("model")[name])
  change(value)
  return {name: json.dumps(value).encode()}


@pytest.mark.parametrize("place", [FOLDER, LOOP])
@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json", "tokenizer_config.json"])
def test_an_optional_file_that_is_none_is_an_error(refused, name, place):
  refused(TOKENIZER, {f"model/{name}": place}, f"model/{name}: not JSON: [Errno")


@pytest.mark.parametrize("wrong", [7, True, [], {"text": "<end>"}, {"content": 1}])
def test_a_special_token_that_is_no_text_is_an_error(refused, seeds, wrong):
  """It was left out, and a model without EOS never ends an answer."""
  files = changed(seeds, "model/tokenizer_config.json", lambda config: config.update(eos_token=wrong))
  refused(TOKENIZER, files, "tokenizer_config.json: eos_token is ")


def test_two_words_of_one_id_are_an_error(refused, seeds):
  files = changed(seeds, "model/tokenizer.json", lambda value: value["model"]["vocab"].update(calm=6))
  refused(TOKENIZER, files, "both have the id 6; each token needs its own")


def test_a_head_of_width_0_is_an_error(refused, seeds):
  files = changed(seeds, "model/config.json", lambda config: config.update(head_dim=0))
  refused(["python", "model", "model"], files, "head_dim is 0; it must be a whole number from 1")


@pytest.mark.parametrize("option", ["--only", "--until"])
def test_a_dry_run_knows_its_stages(refused, option):
  command = ["train", "--config=config.py", "--workdir=w", "--dry-run", f"{option}=dpoo"]
  text = SEVERAL.replace("reward=", "_=").partition("  config.reward")[0] + "  return config\n"
  text = text.replace(', _="reward_model"', "").replace(', ppo="policy_gradient"', "")
  refused(command, {"config.py": text.encode()}, f"{option}=dpoo: no such stage; there is sft, pairs, dpo", ())
