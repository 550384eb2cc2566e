"""The table and the plot of a sweep."""

import re

import numpy as np
from matplotlib.image import imread

from dpojax.report.sweep import table, write_sweep_report
from dpojax.report.sweep_plot import axis_key, draw_sweep
from dpojax.report.sweep_rows import SweepRow


def row(values, kl, reward=None, status="finished"):
  policy = {"kl/sequence": kl, "kl/sequence_error": 0.1 * kl}
  if reward is not None:
    policy |= {"reward/true": reward, "reward/true_error": 0.1}
  after = {"eval": {"rewards/accuracies": 0.5 + kl / 40, "rewards/margins": kl / 3}, "policy": policy}
  return SweepRow(values, {"after": after}, status)


BETAS = [
  row({"loss.beta": beta}, 0.9 / beta**0.75, 2.5 - abs(np.log10(beta) + 1)) for beta in (0.05, 0.1, 0.5, 1.0, 5.0)
]


def test_a_row_a_point_with_what_it_reached(tmp_path):
  failed = SweepRow({"loss.beta": 9.0}, None, "failed")
  text = write_sweep_report([*BETAS, failed], tmp_path)
  lines = [re.split(r" {2,}", line.strip()) for line in text.split("\n\n")[0].splitlines()]
  assert lines[0][0] == "loss.beta" and lines[0][-1] == "status" and len(lines) == 7
  assert lines[2] == ["0.1", "62.7 %", "1.6870", "5.061 ± 0.506", "2.500 ± 0.100", "finished"]
  assert lines[6] == ["9.0", "-", "-", "-", "-", "failed"]
  assert "| 0.1 | 62.7 % | 1.6870 |" in (tmp_path / "sweep.md").read_text()
  assert imread(tmp_path / "sweep.png")[..., :3].std() > 0.02


def test_beta_stands_on_a_logarithmic_axis_in_four_panels():
  figure = draw_sweep(BETAS)
  assert len(figure.axes) == 4
  assert {axis.get_xscale() for axis in figure.axes} == {"log"}
  assert list(figure.axes[2].lines[0].get_xdata()) == [0.05, 0.1, 0.5, 1.0, 5.0]
  assert figure.axes[3].get_title(loc="left") == "true reward"


def test_other_settings_are_lines_and_the_seed_is_never_the_axis():
  rows = [row({"seed": seed, "loss.beta": beta}, 1 / beta) for seed in (0, 1) for beta in (0.1, 0.2)]
  assert axis_key(rows) == "loss.beta"
  assert [text.get_text() for text in draw_sweep(rows).axes[0].get_legend().get_texts()] == ["seed=0", "seed=1"]
  assert axis_key([row({"seed": seed}, 1.0) for seed in (0, 1)]) == "seed"


def test_names_stand_side_by_side():
  rows = [row({"loss.name": name}, 1.0) for name in ("dpo", "ipo")]
  ticks = [label.get_text() for label in draw_sweep(rows).axes[0].get_xticklabels()]
  assert ticks == ["dpo", "ipo"]


def test_when_every_point_failed_there_is_a_table_and_no_plot(tmp_path):
  write_sweep_report([SweepRow({"seed": 0}, None, "failed")], tmp_path)
  assert not (tmp_path / "sweep.png").exists()
  assert table([SweepRow({"seed": 0}, None, "failed")]) == (["seed", "status"], [["0", "failed"]])


def test_headings_break_where_a_terminal_is_narrow(tmp_path):
  rows = [row({"loss.beta": 0.1}, 1.0, 2.0), row({"loss.beta": 0.2}, 2.0)]
  wide, narrow = (write_sweep_report(rows, tmp_path, width=width).split("\n\n")[0] for width in (0, 80))
  assert max(map(len, wide.splitlines())) > 80 >= max(map(len, narrow.splitlines()))
  assert wide.splitlines()[1].split() == narrow.splitlines()[-2].split()  # the same cells
  assert sorted(wide.splitlines()[0].split()) == sorted(" ".join(narrow.splitlines()[:-2]).split())


def test_ties_are_called_tied_and_are_no_point_of_the_plot():
  rows = [row({"loss.beta": 0.1}, 1.0), row({"loss.beta": 0.2}, 1e-9), row({"loss.beta": 0.4}, 2.0)]
  assert [cells[1] for cells in table(rows)[1]] == ["52.5 %", "tied", "55.0 %"]
  assert list(draw_sweep(rows).axes[0].lines[0].get_xdata()) == [0.1, 0.4]


def test_every_reward_that_a_point_measured_has_a_column():
  rows = [row({"loss.beta": 0.1}, 1.0, 2.0), row({"loss.beta": 0.2}, 2.0)]
  rows[1].result["after"]["policy"] |= {"reward/model:runs/reward": 0.7, "reward/model:runs/reward_error": 0.1}
  header, cells = table(rows)
  assert header[-3:] == ["true reward", "reward model:runs/reward", "status"]
  assert [line[-3:-1] for line in cells] == [["2.000 ± 0.100", "-"], ["-", "0.700 ± 0.100"]]
  assert len(draw_sweep(rows).axes) == 5


def test_a_sweep_of_policy_gradients_has_what_its_last_roll_outs_reached(tmp_path):
  rows = []
  for coef, prompts in ((0.01, 2), (0.1, 64)):
    after = {"rollout": {"objective/score": 3 * coef, "objective/kl": 1 / coef}, "policy": {"kl/sequence": 1.0}}
    rows.append(SweepRow({"policy_gradient.kl_coef": coef}, {"after": after, "policy_prompts": prompts}, "finished"))
  header, cells = table(rows)
  assert header[1:3] == ["score of roll-outs", "KL of roll-outs (nats an answer)"]
  assert header[-2:] == ["prompts looked at", "status"]
  assert [line[1:3] + line[-2:] for line in cells] == [
    ["0.030", "100.000", "2", "finished"],
    ["0.300", "10.000", "64", "finished"],
  ]
  text = write_sweep_report(rows, tmp_path, width=90)
  assert "measured at 2 prompts only" in text and "the mean over the last tenth" in text
  assert "measured at 2 prompts only" in (tmp_path / "sweep.md").read_text()
  many = [rows[1]]
  assert "prompts only" not in write_sweep_report(many, tmp_path)
  assert draw_sweep(rows).axes[0].get_title(loc="left") == "score of roll-outs"


def test_points_without_looks_have_no_column_of_prompts():
  assert table([SweepRow({"seed": 0}, {"after": {"eval": {"rewards/margins": 1.0}}}, "finished")])[0][-1] == "status"
  assert "prompts looked at" not in table(BETAS)[0]
