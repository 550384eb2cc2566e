"""RESULTS.md from a record whose figures are made up, and so round that ratios can be had by hand."""

import json
import pathlib

import pytest

from benchmarks import profile_tables, run

RECORDED = json.loads((pathlib.Path(__file__).parent / "recorded_results.json").read_text())


@pytest.fixture(scope="module")
def text():
  left_out = {"trl": "TRL_PYTHON and TRL_MODEL not given"}
  left_out |= dict.fromkeys(("trl_bfloat16", "trl_bfloat16_cached"), "this processor has no bfloat16 products")
  return run.render(RECORDED, left_out)


def cells(text, start):
  """The cells of the one table row that starts so."""
  (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
  return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_part_has_a_section_or_says_why_not(text):
  headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
  assert headings == [part.title for part in run.PARTS.values()]
  assert "Left out: TRL_PYTHON and TRL_MODEL not given." in text


def test_each_section_says_what_it_was_measured_on(text):
  assert "- Made-up processor, 2 cores, 25 GB, Linux 6.1; instructions: avx2, fma (ops, profile, trl_cached" in text
  assert "- Another processor, 4 cores, 25 GB, Linux 6.1; instructions: none of those that matter (startup)" in text
  assert text.count("- Python 3.11.4, jax 0.10.2, numpy 2.4.0") == 1
  assert "Commit `89abcdef01` with 3 changed files, 2026-11-23; 10.0 minutes" in text
  assert text.count("Forced: the machine may have been busy.") == 1


def test_ratios_to_floors(text):
  assert cells(text, "x w, float32") == ["x w, float32", "40.00", "32.00", "1.25", "80", "0"]
  assert cells(text, "chunks of 512, float32")[3] == "1.20 (goal 1.3)"
  assert cells(text, "without a floor")[2:5] == ["", "", ""]
  assert cells(text, "4,096") == ["4,096", "2500", "2.50", "110", "210"]
  assert cells(text, "262,144") == ["262,144", "7000", "7.00", "800", "900"]


def test_parts_of_a_step_add_up_to_it():
  rows = profile_tables.step_rows(RECORDED["profile"]["results"]["step"])
  seconds = {name: s for _, name, s, _ in rows}
  assert sum(s for depth, _, s, _ in rows if depth == 1) == pytest.approx(20.0)
  assert sum(s for depth, _, s, _ in rows if depth == 2) == pytest.approx(14.0)
  # 14 - (2 + 2 again + 4.5 + 0.4 + 1.1 + 0.5 + 1.5 + 0.1)
  assert seconds["element-wise and the rest, by difference"] == pytest.approx(1.9)
  assert seconds["loss, sum of gradients and the rest, by difference"] == pytest.approx(1.0)


def test_nothing_is_computed_again_where_nothing_is_dropped():
  step = RECORDED["profile"]["results"]["step"] | {"remat": "none"}
  seconds = {name: s for _, name, s, _ in profile_tables.step_rows(step)}
  assert "weight products, forward again (remat)" not in seconds
  assert seconds["element-wise and the rest, by difference"] == pytest.approx(3.9)


def test_shares_of_the_step_and_of_the_products_rate(text):
  assert cells(text, "whole step") == ["whole step", "20000", "100.0%", "800", "40%"]
  assert cells(text, "· · weight products, backward")[2:] == ["22.5%", "300", "67%"]
  assert cells(text, "· optimizer's update")[2:] == ["5.0%", "", ""]


def test_overhead_is_of_the_differences_within_rounds(text):
  # +1 %, +1 % and 0 %: their mean, and their standard deviation of 0.577 % over the root of 3
  assert "2 pairs a step: +0.67% (mean of 3 rounds in turns, standard error 0.33%; goal: at most 2%)" in text
  assert "20300.0 ms a step in `Trainer.steps`, 1.00 ms of it waiting for the batch; 20500.0 ms bare" in text


def test_a_shared_prompt_beside_a_repeated_one(text):
  assert cells(text, "prompt shared") == ["prompt shared", "1,280", "10.00", "435", "3.40"]
  assert cells(text, "prompt repeated") == ["prompt repeated", "4,352", "34.00", "128", "1.00"]


def test_starts_side_by_side(text):
  assert cells(text, "tracing, lowering and compiling the step")[1:] == ["20.00", "5.00"]
  assert cells(text, "**all, s**")[1:] == ["**37.00**", "**22.00**"]


def test_speed_beside_the_peer_is_of_medians(text):
  assert cells(text, "32") == ["32", "dpojax", "153 (146-160)", "3.00", "4.00 (4.00-4.00)", "0.01", "425 (400-450)"]
  assert cells(text, "1")[3] == "1.00"


def test_a_part_alone_keeps_what_others_measured(tmp_path, monkeypatch):
  recorded = {name: part for name, part in RECORDED.items() if name != "ops"}
  (tmp_path / "results.json").write_text(json.dumps(recorded))
  monkeypatch.setattr(run, "run_part", lambda name, arguments: RECORDED[name])
  monkeypatch.setattr("sys.argv", ["run.py", "--parts=ops,trl", f"--folder={tmp_path}"])
  for name in ("PAIRS", "TRL_PYTHON", "TRL_MODEL"):
    monkeypatch.delenv(name, raising=False)
  assert run.main() == 0
  assert json.loads((tmp_path / "results.json").read_text()) == RECORDED
  written = (tmp_path / "RESULTS.md").read_text()
  assert "Left out: PAIRS and TRL_PYTHON and TRL_MODEL not given." in written and "1.25" in written


def test_a_part_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
  def fail_first(name, arguments):
    if name == "ops":
      raise SystemExit("others use 1.50 processors")
    return RECORDED[name]

  monkeypatch.setattr(run, "run_part", fail_first)
  monkeypatch.setattr("sys.argv", ["run.py", "--parts=ops,startup", "--pairs=x", f"--folder={tmp_path}"])
  assert run.main() == 1
  written = (tmp_path / "RESULTS.md").read_text()
  assert "Left out: it failed." in written and "**37.00**" in written


def test_unknown_parts_are_named(monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["run.py", "--parts=ops,speed"])
  with pytest.raises(SystemExit):
    run.main()
  assert "unknown parts: speed; known: ops, profile" in capsys.readouterr().err
