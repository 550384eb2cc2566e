"""The report of a policy gradient: roll-outs in the table, in result.json and in their panels."""

import json
import re

import numpy as np
import pytest
from matplotlib.image import imread

from dpojax.config.keys import replace_values
from dpojax.config.record import write_config
from dpojax.config.schema import RunConfig
from dpojax.report import read_result, terminal_report, write_report
from dpojax.report.plots import draw_training
from dpojax.report.records import read_run
from dpojax.report.rollout_plots import draw_rollouts, series
from dpojax.report.rollouts import first_and_last, rollout_records
from dpojax.report.run_report import OF_STEPS

UPDATES = 4
SETTINGS = {"recipe": "policy_gradient", "data.source": "world", "data.name": "complaint_desk", "model.path": "m"}


def rollout(number, **changes):
  record = {
    "objective/score": 0.5 + 0.1 * number,
    "objective/reward": 0.5 + 0.1 * number,
    "objective/rlhf_reward": 0.4 + 0.1 * number,
    "objective/kl": 0.2 * number,
    "objective/kl_token": 0.01 * number,
    "objective/kl_coef": 0.05,
    "objective/entropy": 1.5,
    "rollout/length": 20.0 + number,
    "rollout/eos_share": 0.75,
    "rollout/logp_gap": 4e-7,
    "value/explained_variance": -0.0004 if number == 0 else 0.3,
    "time/sample": 2.0,
  }
  return {"step": number * UPDATES, "split": "rollout"} | record | changes


def step(number, taken=1.0, rows=True):
  """Step `number` of a run; without rows it is one that was not taken because an earlier one was refused."""
  record = {"step": number, "split": "train", "taken": taken, "skipped": 0.0, "time/step": 3.0}
  if rows:
    record |= {
      "loss": 0.01,
      "policy/loss": 0.0,
      "policy/approx_kl": 0.001 * number,
      "policy/clip_fraction": 0.01 * number,
      "policy/ratio": 1.0,
      "policy/ratio_square": 1.0 + 0.002 * number,
      "policy/ratio_variance": 0.002 * number,
      "value/loss": 0.2,
      "tokens_per_second": 1000.0,
    }
  return record


def make_run(folder, records, **settings):
  folder.mkdir(parents=True, exist_ok=True)
  write_config(replace_values(RunConfig(), SETTINGS | settings), folder)
  (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  write_report(folder)
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """20 roll-outs of 4 steps; of the first, step 3 is refused and step 4 has no rows."""
  records = []
  for number in range(20):
    records.append(rollout(number))
    for update in range(1, UPDATES + 1):
      stopped = number == 0 and update >= 3
      records.append(step(number * UPDATES + update, taken=float(not stopped), rows=not (stopped and update == 4)))
  return make_run(tmp_path_factory.mktemp("ppo") / "run", records)


@pytest.mark.slow
def test_a_roll_out_takes_in_its_own_steps(folder):
  first, second = rollout_records(read_run(folder))[:2]
  assert first["objective/score"] == 0.5
  assert first["steps/taken"] == 0.5 and second["steps/taken"] == 1.0
  # The refused step's move counts, its clipped ratios do not; a step without rows says nothing.
  assert first["policy/approx_kl"] == pytest.approx(0.003, rel=1e-12)
  assert first["policy/clip_fraction"] == pytest.approx((0.01 + 0.02) / 2, rel=1e-12)
  assert first["policy/ratio_variance"] == pytest.approx(0.002 * 3, rel=1e-9)
  assert second["policy/approx_kl"] == pytest.approx(0.008, rel=1e-12)


def test_steps_of_a_roll_out_that_are_not_recorded_yet_are_no_error(tmp_path):
  run = read_run(make_run(tmp_path / "run", [rollout(0), step(1), rollout(1)], **{"logging.plots": False}))
  first, second = rollout_records(run)
  assert first["steps/taken"] == 1.0 and "steps/taken" not in second


@pytest.mark.slow
def test_before_is_the_first_roll_out_and_after_the_last_tenth(folder):
  result = read_result(folder)
  before, after = result["before"]["rollout"], result["after"]["rollout"]
  assert before["objective/score"] == 0.5
  assert after["objective/score"] == pytest.approx(0.5 + 0.1 * (18 + 19) / 2, rel=1e-12)
  assert after["policy/approx_kl"] == pytest.approx(0.001 * (76 + 80) / 2, rel=1e-12)
  assert not [name for name in after if name.startswith("time/")]
  assert (result["rollouts"], result["steps_taken"], result["steps"]) == (20, 78, 80)
  assert result["sampling"] == pytest.approx(20 * 2.0 / (80 * 3.0), rel=1e-12)


def test_a_metric_that_only_some_roll_outs_have_is_a_mean_of_theirs():
  before, after = first_and_last([{"a": 1.0}, *[{"a": 2.0, "b": 5.0}, {"a": 4.0}] * 10])
  assert before == {"a": 1.0} and after == {"a": 3.0, "b": 5.0}


def test_the_table_says_it_in_words(folder):
  text = terminal_report(folder, width=100)
  lines = [line.rstrip() for line in text.splitlines()]
  start = lines.index("roll-outs (first, last tenth)")
  assert [line.split() for line in lines[start + 1 : start + 3]] == [
    ["score", "0.500", "2.350"],
    ["score", "less", "KL", "penalty", "0.400", "2.250"],
  ]
  assert "20 roll-outs, 80 steps, 78 of them taken, in 4m00s, 17% of it sampling, 1,000 tokens/s" in lines
  for row in ("largest move of the policy", "sampler apart from training, nats a token", "variance explained"):
    assert any(line.startswith(f"  {row} ") for line in lines), row
  shown = " ".join(lines)
  assert "4e-07" in shown  # not 0.0000
  assert "-0.0 %" not in shown and "nan" not in shown
  assert "training (first step" not in shown  # whose loss says nothing
  assert "reward, before" not in shown  # equal to the score
  assert OF_STEPS in shown.replace("  ", " ")
  page = (folder / "report.md").read_text()
  assert page.startswith("# run\n\nppo, KL weight 0.05, reward true; starts from m\n\n")
  assert f"\n{OF_STEPS}\n" in page
  assert "| roll-outs (first, last tenth) |" in page
  assert "\n    policy_gradient.kl: auto is reward\n" in page


def test_the_reward_is_shown_where_it_is_not_the_score(tmp_path):
  changed = [rollout(0, **{"objective/reward": 0.9}), step(1)]
  text = terminal_report(make_run(tmp_path / "run", changed, **{"logging.plots": False}))
  assert "reward, before what a missing end does" in text


def test_last_steps_without_rows_bring_no_section_of_training(tmp_path):
  records = [rollout(0), step(1), step(2), step(3, taken=0.0), step(4, taken=0.0, rows=False)]
  assert "training (first" not in terminal_report(make_run(tmp_path / "run", records, **{"logging.plots": False}))


@pytest.mark.slow
def test_normalised_scores_are_called_so_and_the_reward_before_is_shown(tmp_path):
  records = [
    rollout(0, **{"objective/reward_raw": 7.25}),
    step(1),
    rollout(1, **{"objective/reward_raw": 8.5}),
    step(5),
  ]
  folder = make_run(tmp_path / "run", records, **{"rollout.normalise": True})
  lines = [line.split() for line in terminal_report(folder, width=100).splitlines()]
  assert ["score", "(normalised)", "0.500", "0.600"] in lines
  assert ["score", "less", "KL", "penalty", "(normalised)", "0.400", "0.500"] in lines
  assert ["reward,", "not", "normalised", "7.250", "8.500"] in lines
  drawn = panels(read_run(folder))
  assert list(drawn)[:2] == ["score of roll-outs (normalised)", "reward of roll-outs, not normalised"]
  assert list(drawn["reward of roll-outs, not normalised"].lines[0].get_ydata()) == [7.25, 8.5]


def panels(run):
  return {axis.get_title(loc="left"): axis for axis in draw_rollouts(run).axes}


def test_a_small_panel_for_each_and_no_plain_loss(folder):
  run = read_run(folder)
  assert list(panels(run)) == [
    "score of roll-outs",
    "KL by k1 (nats an answer)",
    "largest move (½ log-ratio²)",
    "steps taken (%)",
    "ratios beyond the clip (%)",
    "largest variance of ratios",
    "value loss",
    "variance explained (%)",
    "entropy (nats a token)",
    "length (tokens)",
    "answers that end (%)",
  ]
  assert draw_training(run) is None
  assert sorted(path.name for path in (folder / "plots").iterdir()) == ["rollouts.png"]
  picture = imread(folder / "plots" / "rollouts.png")
  assert 700 < picture.shape[1] < 1000  # two panels that a telephone shows
  assert "![rollouts](plots/rollouts.png)" in (folder / "report.md").read_text()


def test_titles_fit_their_panels(folder):
  figure = draw_rollouts(read_run(folder))
  figure.draw_without_rendering()
  ends = [axis.get_window_extent().x1 for axis in figure.axes[:2]]
  for i, axis in enumerate(figure.axes):
    title = axis.set_title(axis.get_title(loc="left"), loc="left", fontsize=9.5, fontweight="bold")
    assert title.get_window_extent().x1 <= ends[i % 2] + 2, title.get_text()


@pytest.mark.slow
def test_what_a_level_is_compared_with_is_drawn(folder, tmp_path):
  limit = panels(read_run(folder))["largest move (½ log-ratio²)"]
  assert [text.get_text() for text in limit.texts] == ["limit\n0.02"]
  assert limit.texts[0].get_position()[0] == 3 and limit.texts[0].xy[0] == 1  # beside the panel, where no curve runs
  assert not panels(read_run(folder))["KL by k1 (nats an answer)"].texts
  settings = {"policy_gradient.kl_controller": "adaptive", "policy_gradient.kl_target": 3.0}
  run = read_run(make_run(tmp_path / "run", [rollout(0), step(1), rollout(1)], **settings))
  target = panels(run)["KL by k1 (nats an answer)"]
  assert [text.get_text() for text in target.texts] == ["target\n3"]
  assert "weight of KL" in panels(run)
  assert target.get_ylim()[1] > 3
  # A KL that rounding alone makes is no magnitude to show, and the level stays in the panel.
  records = [rollout(0, **{"objective/kl": 1e-9}), rollout(1, **{"objective/kl": 0.1}), rollout(2)]
  target = panels(read_run(make_run(tmp_path / "other", records, **settings)))["KL by k1 (nats an answer)"]
  assert target.get_yscale() == "linear" and target.get_ylim()[0] == 0 and target.get_ylim()[1] > 3


def test_a_roll_out_without_a_number_leaves_a_gap(tmp_path):
  without = {k: v for k, v in rollout(1).items() if k != "objective/kl"}
  records = [rollout(0), without, rollout(2, **{"objective/kl": "inf"}), rollout(3)]
  numbers, values = series(records, "objective/kl")
  assert numbers.tolist() == [0, 1, 2, 3]
  assert np.isnan(values).tolist() == [False, True, True, False]


def test_a_small_variance_explained_is_seen(tmp_path):
  for name, values, low, high in (("small", (-0.001, 0.005), -0.2, 1.0), ("large", (-0.3, 0.7), -40, 105)):
    records = [rollout(number, **{"value/explained_variance": value}) for number, value in enumerate(values)]
    axis = panels(read_run(make_run(tmp_path / name, records, **{"logging.plots": False})))["variance explained (%)"]
    assert low < axis.get_ylim()[0] < 100 * values[0] and 100 * values[1] < axis.get_ylim()[1] <= high


@pytest.fixture(scope="module")
def online(tmp_path_factory):
  """2 roll-outs of recipe=online, 4 steps from each."""
  names = ("objective/score", "objective/reward", "objective/kl", "rollout/length", "time/sample")
  records = []
  for number in range(2):
    pairs = {
      "pairs/pairs": 40 + number,
      "pairs/tied": 3,
      "pairs/identical": 1,
      "pairs/not_chosen": 9,
      "pairs/margin": 0.5,
    }
    whole = rollout(number)
    records.append({name: whole[name] for name in ("step", "split", *names)} | pairs)
    for update in range(1, 5):
      taken = {"step": 4 * number + update, "split": "train", "loss": 0.6, "time/step": 3.0, "skipped": 0.0}
      records.append(taken | {"rewards/accuracies": 0.6, "rewards/margins": 0.3})
  return make_run(tmp_path_factory.mktemp("online") / "run", records, recipe="online")


def test_online_learning_reports_its_pairs(online):
  lines = [re.split(r" {2,}", line.strip()) for line in terminal_report(online, width=100).splitlines()]
  assert ["pairs made", "40.0", "41.0"] in lines and ["left out: equal scores", "3.0", "3.0"] in lines
  assert ["left out: identical answers", "1.0", "1.0"] in lines
  assert ["score of the winner less the loser's", "0.500", "0.500"] in lines
  assert ["roll-outs (first, last)"] in lines and ["training (first step, last step)"] in lines
  assert (online / "report.md").read_text().startswith("# run\n\nonline dpo, beta 0.1, reward true; starts from m\n\n")


def test_what_was_not_measured_is_no_line_and_no_legend(online):
  axis = panels(read_run(online))["score of roll-outs"]
  assert len(axis.lines) == 1 and axis.get_legend() is None


def test_an_estimate_of_kl_below_0_is_seen(tmp_path):
  records = [rollout(0, **{"objective/kl": -0.05}), step(1), rollout(1, **{"objective/kl": 0.12})]
  axis = panels(read_run(make_run(tmp_path / "run", records, **{"logging.plots": False})))["KL by k1 (nats an answer)"]
  assert axis.get_ylim()[0] < -0.05 and axis.get_ylim()[1] > 0.12


def test_values_of_many_magnitudes_have_a_logarithmic_axis_without_what_is_rounding(tmp_path):
  moves = [1e-13, 3e-5, 1e-3, 2e-2, 5e-2]
  records = []
  for number, move in enumerate(moves):
    records += [rollout(number), step(number * UPDATES + 1) | {"policy/approx_kl": move}]
  axis = panels(read_run(make_run(tmp_path / "run", records, **{"logging.plots": False})))[
    "largest move (½ log-ratio²)"
  ]
  assert axis.get_yscale() == "log"
  assert 1e-6 < axis.get_ylim()[0] < 3e-5 and axis.get_ylim()[1] > 5e-2


def test_without_a_critic_its_panels_and_rows_are_left_out(tmp_path):
  records = [
    {k: v for k, v in record.items() if not k.startswith("value/")} for record in (rollout(0), step(1), step(2))
  ]
  run = read_run(make_run(tmp_path / "run", records, **{"policy_gradient.method": "rloo"}))
  assert not [name for name in panels(run) if "value" in name or "explained" in name]
  assert "value loss" not in terminal_report(run.folder)


def test_the_report_says_where_the_critic_started(tmp_path):
  records = [rollout(0), step(1)]
  folder = make_run(tmp_path / "run", records, **{"logging.plots": False})
  assert "critic starts" not in (folder / "report.md").read_text()
  described = {"critic": {"shared": False, "model": None, "start": "the critic of runs/a, whose head is kept"}}
  (folder / "model.json").write_text(json.dumps(described))
  write_report(folder)
  page = (folder / "report.md").read_text()
  assert "\nThe critic starts from the critic of runs/a, whose head is kept.\n" in page
