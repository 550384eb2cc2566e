"""`dpojax sample --data --out`: every row of a file answered or told, to the same bytes however often it is killed."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny_model import POSITIONS, TEMPLATE, TinyModel

from dpojax.cli.main import main
from dpojax.rollout.answers_file import read_answers
from dpojax.rollout.resumable import part_path
from dpojax.rollout.sampler import Sample, generate
from dpojax.rollout.text import answer_text

ROOT = pathlib.Path(__file__).parents[2]
YES = {"role": "assistant", "content": "yes"}
ROWS = [
  {"prompt": "my parcel"},
  {"prompt": [{"role": "user", "content": "my refund"}, YES, {"role": "user", "content": "we will"}]},
  {"prompt": 3},
  {"prompt": "we will", "author": "anna"},
  {"prompt": " ".join(["my"] * POSITIONS)},
  {"prompt": "my parcel"},
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return TinyModel(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def data(tmp_path):
  file = tmp_path / "prompts.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  return file


def sample(tiny, data, out, *options):
  return main(["sample", f"--model={tiny.path}", f"--data={data}", f"--out={out}", *options])


@pytest.mark.slow
def test_lines_are_what_generate_draws_for_their_rows(tiny, data, tmp_path, capsys):
  out = tmp_path / "answers.jsonl"
  assert sample(tiny, data, out, "--samples=2", "--max-tokens=6", "--seed=4", "--temperature=2", "--top-p=0.9") == 0
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  assert [line["row"] for line in lines] == [0, 1, 2, 3, 4, 5]
  assert lines[2] == {"row": 2, "error": f"{data}:3: column 'prompt' holds a number, not text"}
  assert f"{data}:5: its prompt has 42 tokens, more than 34" in lines[4]["error"]
  texts = {0: "<user> my parcel <bot>", 3: "<user> we will <bot>", 5: "<user> my parcel <bot>"}
  texts[1] = "<user> my refund <bot> yes <end> <user> we will <bot>"
  for row, text in texts.items():
    assert lines[row]["prompt"] == (ROWS[row]["prompt"] if row == 1 else [{"role": "user", "content": text[7:-6]}])
    prompt = np.asarray(tiny.tokenizer.encode(text), np.int32)
    options = dict(samples=2, max_tokens=6, eos_id=0, seed=4, temperature=2, top_p=0.9)
    (alone,) = generate(tiny.model, tiny.params, [prompt], numbers=[row], **options)
    for found, wanted in zip(lines[row]["samples"], alone, strict=True):
      assert found["tokens"] == wanted.tokens.tolist() and found["ended"] == wanted.ended
      np.testing.assert_allclose(found["logps"], wanted.logp, rtol=0, atol=1e-5)
      assert found["text"] == tiny.tokenizer.decode(wanted.tokens, skip_special_tokens=True)
  assert lines[0]["samples"] != lines[5]["samples"]  # one prompt, two rows
  page, log = capsys.readouterr()
  assert page == ""
  assert "answers.jsonl: 8 answers to 4 prompts; 1 malformed, 1 prompt too long (their errors are in the file)" in log
  assert "as --max-tokens leaves 34 of the model's 40 positions" in log
  assert max(map(len, log.splitlines()[-1:])) <= 120


@pytest.mark.slow
def test_floats_are_read_back_exactly(tiny, data, tmp_path):
  out = tmp_path / "answers.jsonl"
  sample(tiny, data, out, "--max-tokens=8", "--raw", "--limit=1", "--samples=4")
  prompt = np.asarray(tiny.tokenizer.encode("my parcel"), np.int32)
  (wanted,) = generate(tiny.model, tiny.params, [prompt], samples=4, max_tokens=8, eos_id=0)
  (row,) = read_answers(out)
  assert row.prompt == "my parcel" and not row.error
  for answer, sampled in zip(row.answers, wanted, strict=True):
    assert answer.logp.dtype == np.float32 and np.array_equal(answer.logp, sampled.logp)
    assert np.array_equal(answer.tokens, sampled.tokens)
    assert answer.finished == sampled.finished


@pytest.mark.slow
def test_stop_texts_and_top_k(tiny, data, tmp_path):
  out = tmp_path / "answers.jsonl"
  options = ["--max-tokens=12", "--samples=4", "--temperature=3", "--limit=4"]
  sample(tiny, data, out, *options, "--stop=parcel", "--stop=my refund", "--top-k=5")
  ended = {"eos": 0, "stop": 0, "length": 0}
  for row in read_answers(out):
    for answer in row.answers:
      written = tiny.tokenizer.decode(answer.tokens)
      ended[answer.ended] += 1
      assert (answer.ended == "stop") == (written.endswith(("parcel", "my refund")))
      assert "parcel" not in answer.text and "my refund" not in answer.text
      assert answer.ended != "stop" or written.startswith(answer.text)
  assert ended["stop"] > 3
  sample(tiny, data, out, *options, "--samples=64", "--top-k=2", "--limit=1")
  firsts = {int(answer.tokens[0]) for row in read_answers(out) for answer in row.answers}
  assert len(firsts) == 2  # of fifteen words


@pytest.mark.slow
def test_prompts_of_a_text_file_and_of_preferences(tiny, tmp_path):
  text, pairs = tmp_path / "prompts.txt", tmp_path / "pairs.jsonl"
  text.write_text("my parcel\n\nwe will\n")
  rows = [{"prompt": prompt, "chosen": "yes", "rejected": "sorry"} for prompt in ("my parcel", "we will")]
  pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
  for file in (text, pairs):
    assert sample(tiny, file, tmp_path / f"{file.stem}.out", "--max-tokens=4") == 0
  assert (tmp_path / "prompts.out").read_bytes() == (tmp_path / "pairs.out").read_bytes()
  assert (tmp_path / "prompts.out").read_text().count("\n") == 2


@pytest.mark.slow
def test_the_same_command_again_makes_nothing_and_another_replaces(tiny, data, tmp_path, capsys, monkeypatch):
  out = tmp_path / "answers.jsonl"
  sample(tiny, data, out, "--max-tokens=4")
  first = out.read_bytes()
  capsys.readouterr()
  with monkeypatch.context() as patch:
    patch.setattr("dpojax.rollout.answers_file.generate", None)
    assert sample(tiny, data, out, "--max-tokens=4") == 0
  assert "answers.jsonl holds these answers already; delete it to sample them again" in capsys.readouterr()[1]
  assert sample(tiny, data, out, "--max-tokens=5") == 0
  assert out.read_bytes() != first


@pytest.mark.slow
def test_an_unfinished_file_belongs_to_its_job(tiny, data, tmp_path, capsys, monkeypatch):
  out = tmp_path / "answers.jsonl"

  def dying(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr("dpojax.rollout.answers_file.generate", dying)
  assert sample(tiny, data, out, "--max-tokens=4") == 130
  monkeypatch.undo()
  assert not out.exists() and part_path(out).exists()
  other = tmp_path / "other"
  other.mkdir()
  TinyModel(other, seed=4)
  data.write_text(data.read_text().replace("my parcel", "my refund"))
  template = tmp_path / "t.jinja"
  template.write_text(TEMPLATE + "{# another #}")
  for changed, options in (
    ("temperature: 1.0 -> 0.5", ["--temperature=0.5"]),
    ("weights: ", [f"--model={other}"]),
    ("template: ", [f"--template={template}"]),
    ("prompts: ", []),
    ("rows: 6 -> 2", ["--limit=2"]),
    ('precision: "float32" -> "bfloat16"', ["--precision=bfloat16"]),
  ):
    capsys.readouterr()
    assert sample(tiny, data, out, "--max-tokens=4", *options) == 2
    error = capsys.readouterr()[1]
    assert changed in error and "delete it, or name another --out" in error and error.count("\n") == 1


@pytest.mark.parametrize(
  ("tokens", "ended", "stop", "text"),
  [
    ("we will refund <end>", "eos", (), "we will refund"),
    ("we will refund my parcel", "stop", ("my parcel",), "we will refund "),
    ("we will refund my parcel", "stop", ("parcel", "refund my"), "we will "),
    ("we will refund my parcel", "length", ("never",), "we will refund my parcel"),
    ("we will <end>", "stop", ("<end>",), "we will"),
    ("we will <end> my parcel", "stop", ("<end> my parcel",), "we will"),
    ("we <end> will refund my", "stop", ("refund my",), "we will "),
    ("we <end> will my", "stop", ("nd> will",), "we"),
  ],
)
def test_the_text_of_an_answer(tiny, tokens, ended, stop, text):
  ids = np.asarray(tiny.tokenizer.encode(tokens), np.int32)
  assert answer_text(Sample(ids, ended, np.zeros(len(ids), np.float32)), tiny.tokenizer, stop) == text


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--data=DATA"], "--data answers a whole file, into another: name it as --out=FILE.jsonl"),
    (["--data=DATA", "--out=x", "--prompt=my"], "--data and --prompt are both given"),
    (["--prompt=my", "--out=x"], "--out is for the answers to --data=FILE"),
    (["--prompt=my", "--limit=3"], "--limit says how --data=FILE is read, and there is none"),
    (["--data=nowhere.jsonl", "--out=x"], "nowhere.jsonl: no such file"),
    (["--data=DATA", "--out=nowhere/x"], "--out=nowhere/x: No such file or directory; name a file in an existing"),
    (["--data=DATA", "--out=x", "--max-tokens=40"], "--max-tokens=40 leaves no room for a prompt in the model's 40"),
    (["--data=DATA", "--out=x", "--raw", "--template=t.jinja"], "--raw means --template=none, but --template=t.jinja"),
    (["--data=DATA", "--out=x", "--greedy", "--top-k=2"], "--greedy has no --temperature, no --top-k"),
    (["--prompt=my", "--stop="], "--stop is empty; every answer holds an empty text"),
  ],
)
def test_wrong_options_are_named(tiny, data, tmp_path, capsys, monkeypatch, options, message):
  monkeypatch.chdir(tmp_path)
  options = [option.replace("DATA", str(data)) for option in options]
  assert main(["sample", f"--model={tiny.path}", "--max-tokens=4", *options]) == 2
  page, error = capsys.readouterr()
  assert message in error and error.count("\n") == 1 and page == ""
  assert [file.name for file in tmp_path.iterdir()] == [data.name]


@pytest.mark.long
def test_killed_ten_times_it_is_the_file_of_a_process_that_was_left_alone(tiny, tmp_path):
  data, out, alone = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl", tmp_path / "alone.jsonl"
  draws = random.Random(2)
  words = ["my", "parcel", "is", "sorry", "refund", "the", "we", "calm"]
  rows = [{"prompt": " ".join(draws.choices(words, k=draws.randint(1, 12)))} for _ in range(4000)]
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  cache = {"DPOJAX_COMPILATION_CACHE": str(tmp_path / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

  def start(path):
    words = ["sample", f"--model={tiny.path}", f"--data={data}", "--samples=4", "--max-tokens=20", f"--out={path}"]
    return subprocess.Popen(
      [sys.executable, "-m", "dpojax", *words],
      cwd=ROOT,
      env=os.environ | cache | {"JAX_PLATFORMS": "cpu"},
      stderr=subprocess.PIPE,
    )

  process = start(alone)
  assert process.communicate(timeout=120) and process.returncode == 0
  part, kills, lines = part_path(out), 0, []
  while kills < 10:
    process = start(out)
    goal = (part.stat().st_size if part.exists() else 0) + draws.randint(1, 600_000)
    while process.poll() is None and (not part.exists() or part.stat().st_size < goal):
      time.sleep(0.001)
    time.sleep(draws.uniform(0, 0.02))
    assert process.poll() is None, process.communicate()[1].decode()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kills += 1
    lines.append(part.read_bytes().count(b"\n"))
  assert lines == sorted(lines) and len(set(lines)) >= 8, lines
  process = start(out)
  error = process.communicate(timeout=120)[1].decode()
  assert process.returncode == 0, error
  assert out.read_bytes() == alone.read_bytes()
  assert len(out.read_bytes().splitlines()) == len(rows)
  assert not part.exists()


@pytest.mark.parametrize("name", ["prompts.jsonl", "link.jsonl"])
@pytest.mark.parametrize("command", [["sample", "--model=MODEL"], ["score", "--rewards=length", "--model=MODEL"]])
def test_the_file_that_is_read_is_not_replaced(tiny, data, capsys, command, name):
  (data.parent / "link.jsonl").symlink_to(data)
  before, out = data.read_bytes(), data.parent / name
  options = [option.replace("MODEL", str(tiny.path)) for option in command]
  assert main([*options, f"--data={data}", f"--out={out}"]) != 0
  assert f"--out={out} is the file that --data reads" in capsys.readouterr().err
  assert data.read_bytes() == before and sorted(p.name for p in data.parent.iterdir()) == ["link.jsonl", data.name]


@pytest.mark.parametrize("command", ["sample", "score"])
def test_a_file_of_the_model_is_not_replaced(tiny, data, capsys, command):
  out = pathlib.Path(tiny.path) / "config.json"
  before = out.read_bytes()
  assert main([command, f"--model={tiny.path}", f"--data={data}", f"--out={out}"]) == 2
  assert f"--out={out} is a file of the model that --model reads" in capsys.readouterr().err
  assert out.read_bytes() == before
