"""What a run says of when to stop: panels, marks, sentences."""

import json

import numpy as np
import pytest

from dpojax.config.keys import replace_values
from dpojax.config.record import write_config
from dpojax.config.schema import RunConfig, StopSettings
from dpojax.errors import CheckpointError
from dpojax.report import terminal_report, write_report
from dpojax.report.policy_plots import draw_policy
from dpojax.report.records import read_run
from dpojax.training.stopping import PolicySample, best_under_budget, budget, should_stop

REWARDS = {"true": (0.6, 2.3), "model:runs/reward": (-0.4, 1.9), "length": (26.0, 20.0)}


def make_run(folder, *, steps=range(0, 301, 50), rewards=REWARDS, kl=0.13, kl_name="kl", settings=None, **more):
  """A run whose reward and KL rise to `kl` and stay there from step 100 on, as its monitor leaves it."""
  folder.mkdir(parents=True, exist_ok=True)
  write_config(replace_values(RunConfig(), settings or {}), folder)
  noise, lines, looks = np.random.default_rng(0), [], []
  for step in steps:
    progress = min(1.0, step / 100)
    record = {"step": step, "split": "policy", f"{kl_name}/token": kl * progress, f"{kl_name}/token_error": 0.004}
    record |= {f"{kl_name}/sequence": 30 * kl * progress, "finished": 0.9, "length/policy": 30.0, "distinct/2": 0.6}
    for label, (before, after) in rewards.items():
      record |= {f"reward/{label}": before + (after - before) * progress, f"reward/{label}_error": 0.05}
    lines.append(record | more)
    values = noise.normal(size=16)
    values += record[f"reward/{next(iter(rewards), 'none')}"] - values.mean() if rewards else 0
    looks.append(PolicySample(step, values, np.full(16, 30 * kl * progress), np.full(16, 30)))
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  rule = StopSettings(patience=2)
  best = best_under_budget(looks, rule)
  stop = {"decision": should_stop(looks, rule).as_json(), "budget": budget(looks[-1], rule).as_json()}
  stop["best"] = (
    None if best is None else {"step": looks[best].step, "reward": looks[best].reward, "kl_token": looks[best].kl_token}
  )
  stop["ended"] = stop["decision"]["stop"]
  (folder / "stop.json").write_text(json.dumps(stop))
  return read_run(folder)


def panels(run):
  return {axis.get_title(loc="left"): axis for axis in draw_policy(run).axes}


def texts(axis):
  return [text.get_text() for text in axis.texts]


def lines_at(axis, step):
  """Vertical lines at a step."""
  return [line for line in axis.lines if list(line.get_xdata()) == [step, step]]


def stars(axis):
  return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() == "*"]


def test_a_panel_for_each_and_rewards_of_one_scale_together(tmp_path):
  axes = panels(make_run(tmp_path, win_rate=0.8, win_rate_low=0.7, win_rate_high=0.9))
  assert list(axes) == [
    "rewards",
    "reward length",
    "KL to the reference (nats a token)",
    "true reward against KL",
    "win rate against the reference (%)",
    "form of answers (%)",
    "length (tokens)",
  ]
  shown = [text.get_text() for text in axes["rewards"].get_legend().get_texts()]
  assert shown == ["true reward", "reward model:runs/reward"]
  band = axes["reward length"].collections[0].get_paths()[0].get_extents()
  np.testing.assert_allclose([band.y0, band.y1], [19.95, 26.05])
  interval = axes["win rate against the reference (%)"].collections[0].get_paths()[0].get_extents()
  np.testing.assert_allclose([interval.y0, interval.y1], [70, 90])


def test_the_budget_is_a_line_and_the_stop_is_marked(tmp_path):
  axes = panels(make_run(tmp_path))
  kl = axes["KL to the reference (nats a token)"]
  (line,) = [line for line in kl.lines if line.get_linestyle() == "--"]
  assert list(line.get_ydata()) == [0.05, 0.05]
  assert texts(kl) == ["budget 0.05", "stopped"] and lines_at(kl, 300) and lines_at(axes["rewards"], 300)
  assert not stars(kl)  # no look kept to it


def test_the_best_look_within_the_budget_is_marked_on_the_reward_it_is_best_by(tmp_path):
  run = make_run(tmp_path, kl=0.04, rewards={"true": (0.6, 2.3), "other": (0.7, 2.5)})
  axes = panels(run)
  assert stars(axes["rewards"]) == [(100, 2.3)] and stars(axes["KL to the reference (nats a token)"]) == [(100, 0.04)]
  assert stars(axes["true reward against KL"]) == [(1.2, 2.3)]
  (entry,) = axes["KL to the reference (nats a token)"].get_legend().get_texts()
  assert entry.get_text() == "best within the budget, step 100"


@pytest.mark.parametrize(("kl", "drawn", "said"), [(0.006, False, "budget 0.05, above"), (0.04, True, "budget 0.05")])
def test_a_budget_far_above_is_named_only(tmp_path, kl, drawn, said):
  axis = panels(make_run(tmp_path, kl=kl))["KL to the reference (nats a token)"]
  assert said in texts(axis) and bool(axis.get_ylim()[1] > 0.05) == drawn


def test_without_a_budget_none_is_drawn(tmp_path):
  axis = panels(make_run(tmp_path, settings={"stop.kl_budget": 0.0}))["KL to the reference (nats a token)"]
  assert texts(axis) == ["stopped"]


def test_kl_of_truncated_samples_is_called_so(tmp_path):
  axes = panels(make_run(tmp_path, kl_name="path_kl"))
  assert "KL along truncated samples (nats a token)" in axes
  assert axes["true reward against KL"].get_xlabel() == "KL along truncated samples (nats an answer)"


def test_one_look_is_points_and_has_no_frontier(tmp_path):
  axes = panels(make_run(tmp_path, steps=[0]))
  assert "true reward against KL" not in axes and axes["length (tokens)"].get_xlim() == (-1, 1)
  assert read_run(tmp_path).when_to_stop.sentences()[0] == (
    "The rule decided nothing: 2 more looks to come before it applies."
  )


def test_report_and_terminal_say_when_to_stop(tmp_path):
  make_run(tmp_path, settings={"logging.plots": False})
  write_report(tmp_path, reason="stopped")
  sentences = read_run(tmp_path).when_to_stop.sentences()
  assert sentences[0].startswith(
    "The rule stopped the run after step 300, as reward no longer rises and KL is stable: "
  )
  assert sentences[1].endswith("at step 300 is 2.6 times the budget of 0.05.")
  assert sentences[2:] == ["No look after step 0 kept to the budget of 0.05."]
  page = (tmp_path / "report.md").read_text()
  assert "## When to stop\n\n" + "\n".join(f"- {sentence}" for sentence in sentences) in page
  assert "| reward length | 26.000 ± 0.050 | 20.000 ± 0.050 |" in page.replace("|   ", "| ")
  text = terminal_report(tmp_path, width=80)
  assert all(sentence in " ".join(text.split()) for sentence in sentences)
  assert all(len(line) <= 80 for line in text.splitlines() if "report.md" not in line)


@pytest.mark.slow
def test_the_run_went_on_and_the_best_look_is_named(tmp_path):
  run = make_run(tmp_path, steps=range(0, 101, 50), kl=0.04)
  sentences = run.when_to_stop.sentences()
  assert run.when_to_stop.stopped_at is None and not lines_at(panels(run)["rewards"], 100)
  assert sentences[0].startswith("The rule let the run go on after step 100, as reward rises and KL is not stable: ")
  assert sentences[1].endswith("nats a token at step 100 keeps to the budget of 0.05.")
  assert sentences[2].startswith("Best look within the budget: step 100, reward 2.300 at KL 0.0400 nats a token.")
  stop = json.loads((tmp_path / "stop.json").read_text())
  stop["best"] |= {"checkpoint": "checkpoints/100", "label": "length", "start": 2.4}
  (tmp_path / "stop.json").write_text(json.dumps(stop))
  run = read_run(tmp_path)
  said = run.when_to_stop.sentences()[2]
  assert (
    "step 100, reward 2.300 (2.400 before training) at KL 0.0400 nats a token. It is no better than what the" in said
  )
  assert said.endswith("It is kept in checkpoints/100.")
  assert stars(panels(run)["reward length"]) == [(100, 20.0)] and not stars(panels(run)["rewards"])


def test_a_budget_that_ended_the_run_says_so(tmp_path):
  run = make_run(tmp_path)
  stop = json.loads((tmp_path / "stop.json").read_text()) | {"decision": None, "ended": True}
  stop["budget"]["stop"] = True
  (tmp_path / "stop.json").write_text(json.dumps(stop))
  run = read_run(tmp_path)
  assert run.when_to_stop.stopped_at == 300
  assert run.when_to_stop.sentences()[0].endswith("budget of 0.05, which ended the run (stop.over_budget=stop).")


@pytest.mark.parametrize("text", ["{", "[]", '{"best": {"step": 1}}', '{"decision": {"stop": true}}', '{"budget": 3}'])
def test_a_damaged_record_is_named(tmp_path, text):
  make_run(tmp_path)
  (tmp_path / "stop.json").write_text(text)
  with pytest.raises(CheckpointError, match=r"stop\.json: not a record of when to stop .*; delete it to go without"):
    read_run(tmp_path)
