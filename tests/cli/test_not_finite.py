"""Figures that are NaN or infinite: null in files that every parser reads, counted in a line, exit code 1."""

import json
import os

import pytest
from tiny_model import TinyModel

from dpojax.bradley_terry import uncertainty
from dpojax.cli import score
from dpojax.cli.main import main
from dpojax.interop.files import write_model_folder
from dpojax.models.weights import tensors_from_params
from dpojax.recipes import evaluate_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return TinyModel(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
  """A model whose weights are finite and whose logits are not."""
  model = TinyModel(tmp_path_factory.mktemp("overflowing"))
  head = model.params["head"]
  model.params["head"] = head * (3e38 / abs(head).max())
  config = model.model.config
  tensors = tensors_from_params(config, model.params)
  write_model_folder(model.path, config.to_transformers(), tensors, model.tokenizer, {}, max_shard_bytes=10**9)
  return model


def read(text):
  return json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))


def rows_file(folder):
  texts = [("is my parcel", "yes"), ("is my parcel calm", "be calm"), ("the refund", "sorry")]
  rows = [{"prompt": prompt, "chosen": answer, "rejected": "we will"} for prompt, answer in texts]
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return f"--data={folder / 'rows.jsonl'}"


@pytest.mark.slow
def test_scores_of_a_model_that_overflows(overflowing, tmp_path, capsys):
  out = tmp_path / "out.jsonl"
  assert main(["score", f"--model={overflowing.path}", rows_file(tmp_path), f"--out={out}"]) == 1
  lines = [read(line) for line in out.read_text().splitlines()]
  nulls = sum(value is None for line in lines for value in line.values())
  assert [line["row"] for line in lines] == [0, 1, 2] and nulls > 0
  warned = capsys.readouterr().err.splitlines()[-1]
  assert warned.startswith(f"dpojax: warning: {nulls} figures are not finite, null in {out}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows.jsonl", "null"])
def test_finite_scores_are_a_success_wherever_they_go(tiny, tmp_path, capsys, name):
  data, out = rows_file(tmp_path), tmp_path / "scores.jsonl"
  if name == "null":
    out.symlink_to("/dev/null")
  before = os.stat("/dev/null")
  assert main(["score", f"--model={tiny.path}", data, f"--out={out}"]) == 0
  assert "warning" not in capsys.readouterr().err
  assert out.is_symlink() == (name == "null") and os.stat("/dev/null").st_ino == before.st_ino
  assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "scores.jsonl"]


def test_rewards_that_are_not_finite(tiny, tmp_path, monkeypatch, capsys):
  """Objects in lists in lines: the whole line is looked through."""
  lines = [{"row": 0, "rewards": [{"a": float("inf"), "b": 1.0}, {"a": 2.0, "b": float("nan")}]}]
  monkeypatch.setattr(score, "_by_model", lambda options: (lines, []))
  out = tmp_path / "out.jsonl"
  assert main(["score", f"--model={tiny.path}", rows_file(tmp_path), f"--out={out}"]) == 1
  assert read(out.read_text())["rewards"] == [{"a": None, "b": 1.0}, {"a": 2.0, "b": None}]
  assert "2 figures are not finite" in capsys.readouterr().err


def test_an_evaluation_of_a_model_that_overflows(overflowing, tmp_path, monkeypatch, capsys):
  out = tmp_path / "eval"
  evaluate = evaluate_model.evaluate_model

  def one_row_overflows(*given, **options):
    found = evaluate(*given, **options)
    found.scores[0][...] = 1.0
    found.scores[1][...] = float("nan")
    found.scores[2][...] = [[2.0, 1.0]]
    return found

  monkeypatch.setattr(evaluate_model, "evaluate_model", one_row_overflows)
  assert main(["eval", f"--model={overflowing.path}", rows_file(tmp_path), "--score=sum", f"--out={out}"]) == 1
  read((out / "eval.json").read_text())
  lines = [read(line) for line in (out / "scores.jsonl").read_text().splitlines()]
  assert [line["row"] for line in lines] == [0, 1, 2] and "not finite" in lines[1]["error"]
  assert "dpojax: warning: 1 rows are left out" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_leaderboard_with_a_figure_that_is_not_finite(tmp_path, monkeypatch, capsys):
  (tmp_path / "games.csv").write_text("w,l\n" + "a,b\nb,c\nc,a\na,c\n" * 30)
  arguments = ["bt", str(tmp_path / "games.csv"), "--winner=w", "--loser=l", f"--out={tmp_path / 'board.json'}"]
  assert main(arguments) == 0
  errors = uncertainty.covariance
  monkeypatch.setattr(uncertainty, "covariance", lambda *given: errors(*given) * float("inf"))
  assert main(arguments) == 1
  assert "not finite, null in" in capsys.readouterr().err
  assert None in [item["rating_error"] for item in read((tmp_path / "board.json").read_text())["items"]]


@pytest.mark.parametrize("option", ["--offset=nan", "--offset=inf", "--scale=inf", "--base=inf", "--level=nan"])
def test_options_of_a_leaderboard_are_finite(tmp_path, capsys, option):
  (tmp_path / "games.csv").write_text("w,l\na,b\nb,a\n")
  assert main(["bt", str(tmp_path / "games.csv"), "--winner=w", "--loser=l", option]) == 2
  assert option.partition("=")[0] in capsys.readouterr().err


def test_answers_are_no_device(tiny, tmp_path, capsys):
  (tmp_path / "out").symlink_to("/dev/null")
  for out in ("/dev/null", tmp_path / "out"):
    assert main(["sample", f"--model={tiny.path}", rows_file(tmp_path), f"--out={out}"]) == 2
    assert capsys.readouterr().err.startswith(f"dpojax: error: --out={out}: it is a device")
  assert not os.path.exists("/dev/null.part")
