"""What a dry run says of a stage before anything runs: how much there will be, and which model is not there."""

import pytest

from dpojax.cli.main import main
from dpojax.config.keys import replace_values
from dpojax.config.schema import RunConfig
from dpojax.recipes.plan import planned

WORLD = {"recipe": "policy_gradient", "data.source": "world", "data.name": "complaint_desk"}


@pytest.mark.parametrize(
  "values, said",
  [
    (
      {"train.steps": 40, "batch.size": 8, "rollout.samples": 2},
      "ppo: 3 roll-outs of 64 answers (2 to each of 32 prompts), 16 steps from each|in all 3 roll-outs, 192 answers, 40 steps",
    ),
    ({"rollout.prompts": 256, "train.epochs": 2.0}, "in all 4 roll-outs, 2,048 answers, 64 steps"),
    (
      {"data.source": "file", "data.path": "here.jsonl", "rollout.reward": "length", "batch.size": 8},
      "roll-outs of 128 answers (4 to each of 32 prompts), 16 steps from each|their number is that of the data's prompts times",
    ),
    (
      {"recipe": "online", "train.steps": 20, "batch.size": 8, "online.refresh": 8},
      "roll-outs of 256 answers (4 to each of 64 prompts), 8 steps from each|in all 3 roll-outs, 768 answers, 20 steps",
    ),
    (
      {"recipe": "best_of_n", "rollout.samples": 64, "rollout.prompts": 10},
      "best_of_n: 640 answers (64 to each of 10 prompts)",
    ),
    ({"recipe": "sft", "rollout.samples": 4}, ""),
  ],
)
def test_a_dry_run_says_how_much_there_will_be(values, said):
  given = WORLD | {"model.path": "m"} | values
  if values.get("data.source") == "file":
    given = {key: value for key, value in given.items() if key != "data.name"}
  found = planned(replace_values(RunConfig(), given))
  assert all(part in found for part in said.split("|")) and bool(found) == bool(said)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model.path", "policy_gradient.critic_path", "reference.path"])
def test_a_model_that_is_not_there_is_named_before_anything_runs(tmp_path, capsys, key):
  file = tmp_path / "config.py"
  file.write_text(
    "from dpojax.config import stages\n\ndef get_config():\n  return stages(first='sft', ppo='policy_gradient')\n"
  )
  values = {
    "data.source": "world",
    "data.name": "complaint_desk",
    "ppo.model.path": "stage:first",
    f"ppo.{key}": "nowhere",
  }
  words = [f"--config.{name}={value}" for name, value in values.items()]
  command = ["train", f"--config={file}", f"--workdir={tmp_path / 'run'}", *words]
  said = f"ppo.{key}=nowhere: no such file or folder; give a transformers folder"
  assert main(command) == 2
  assert said in capsys.readouterr().err and not (tmp_path / "run").exists()
  assert main([*command, "--dry-run"]) == 0
  assert f": refused: {said}" in capsys.readouterr().out
