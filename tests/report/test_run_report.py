"""The end of a run: what is written, what it says, and that damage is named."""

import json
import re

import numpy as np
import pytest
from matplotlib.image import imread

from dpojax.errors import CheckpointError
from dpojax.report import read_result, terminal_report
from dpojax.report.plots import draw_training, smooth
from dpojax.report.policy_plots import draw_policy
from dpojax.report.records import read_run
from dpojax.report.run_report import footnotes


@pytest.mark.slow
def test_the_table_holds_first_and_last_measurement(finished_run):
  text = terminal_report(finished_run)
  table = [re.split(r" {2,}", line.strip()) for line in text.split("\n\n")[0].splitlines()]
  assert table[2] == ["loss", "0.6931", "0.4477"]
  assert ["true reward", "0.500 ± 0.100", "2.463 ± 0.100"] in table
  assert ["reward accuracy", "tied", "71.6 %"] in table
  assert "200 steps in 1m40s, 4,000 tokens/s" in text
  assert "before: 5 tokens, true reward 1.50," in text
  assert text.index("Answer 0 of step 0") < text.index("Answer 0 of step 200")  # as a person reads this environment
  assert "answer 4 of step 0" not in text  # monitor.show is 4


@pytest.mark.slow
def test_the_table_says_at_how_many_prompts_the_policy_was_looked_at(finished_run):
  text = terminal_report(finished_run)
  assert "\nwhat it writes (± standard error), 6 prompts\n" in text
  assert "What it writes was measured at 6 prompts only" in " ".join(text.split())
  page = (finished_run / "report.md").read_text()
  assert "| what it writes (± standard error), 6 prompts |" in page and "was measured at 6 prompts only" in page
  assert footnotes({"policy_prompts": 16, "after": {}}) == [] == footnotes({"after": {}})
  (one,) = footnotes({"policy_prompts": 1, "after": {}})
  assert "at 1 prompt only" in one


def test_result_json_is_what_the_table_shows(finished_run):
  result = read_result(finished_run)
  assert result["reason"] == "finished" and result["steps"] == 200
  assert result["before"]["eval"]["loss"] == np.log(2)
  assert abs(result["after"]["policy"]["kl/sequence"] - 4.7 * (1 - np.exp(-4))) < 1e-12
  assert result["config"]["data"]["source"] == "world"
  assert not [name for name in result["after"]["train"] if name.startswith("time/")]


@pytest.mark.slow
def test_curves_are_pictures_with_something_on_them(finished_run):
  for name in ("training.png", "policy.png"):
    picture = imread(finished_run / "plots" / name)
    assert picture.shape[0] > 300 and picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.02  # a blank page has no spread


@pytest.mark.slow
def test_each_panel_says_what_it_shows(finished_run):
  run = read_run(finished_run)
  titles = [axis.get_title(loc="left") for axis in draw_training(run).axes]
  assert titles == ["loss", "reward accuracy (%)", "reward margin", "reward of chosen and rejected, held out"]


@pytest.mark.slow
def test_without_a_reward_its_panels_are_left_out(tmp_path, make_run):
  run = read_run(make_run(tmp_path / "run", reward=False))
  assert [axis.get_title(loc="left") for axis in draw_policy(run).axes] == [
    "KL to the reference (nats a token)",
    "answers that end by themselves (%)",
    "length (tokens)",
  ]
  assert "true reward" not in terminal_report(run.folder)


def test_a_share_of_pairs_won_is_left_out_where_all_are_ties(finished_run):
  run = read_run(finished_run)
  assert run.splits["eval"][0]["rewards/margins"] == 0
  assert run.series("eval", "rewards/accuracies")[0][0] == 25
  assert run.series("eval", "rewards/margins")[0][0] == 0


def test_no_plots_when_told(tmp_path, make_run):
  folder = make_run(tmp_path / "run", {"logging.plots": False})
  assert not (folder / "plots").exists()


@pytest.mark.slow
def test_the_page_shows_settings_curves_and_samples(tmp_path, make_run):
  page = (make_run(tmp_path / "run", {"loss.beta": 0.3}) / "report.md").read_text()
  assert page.startswith("# run\n")
  for part in (
    "    loss.beta: its default -> 0.3\n",
    "![policy](plots/policy.png)",
    "| Answer 0 of step 0 | Answer 0 of step 200 |",
  ):
    assert part in page


def test_smoothing_passes_over_what_is_not_finite():
  values = smooth(np.asarray([1.0, np.nan, 1.0, np.inf, 1.0]), fraction=0.5)
  np.testing.assert_allclose(values, 1.0, rtol=1e-12)


def test_damage_is_named(tmp_path, make_run):
  folder = make_run(tmp_path / "run", {"logging.plots": False})
  (folder / "result.json").write_text("{")
  with pytest.raises(
    CheckpointError, match=r"result\.json: damaged or changed .*delete it and run the same command again"
  ):
    read_result(folder)
  (folder / "result.json").unlink()
  with pytest.raises(CheckpointError, match=r"result\.json: no such file; the run in .* has not ended"):
    read_result(folder)
  sample = folder / "samples" / "step_00000000.jsonl"
  sample.write_text(json.dumps({"prompt": "p"}) + "\n{\n")
  with pytest.raises(CheckpointError, match=r"step_00000000\.jsonl:2: not JSON"):
    read_run(folder)
  with pytest.raises(CheckpointError, match=r"config\.json: no such file; is .* the workdir of a run\?"):
    read_run(tmp_path)
