"""Tokenisation: one boundary for all answers, BOS never twice, EOS exactly once, no answer in the prompt."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from dpojax.config.schema import DataSettings
from dpojax.data.dataset import dataset_from_rows, encode_prompts
from dpojax.data.formats import PreferenceRow
from dpojax.data.templates import ChatTemplate
from dpojax.data.tokenise import Tokenised, _divide, tokenise
from dpojax.errors import DataError, TemplateError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers


def merging() -> Tokenizer:
  """Letters are tokens, and so are the pairs ab and bc."""
  vocabulary = {token: i for i, token in enumerate(["$", "a", "b", "c", "d", "ab", "bc"])}
  backend = tokenizers.Tokenizer(models.BPE(vocabulary, [("a", "b"), ("b", "c")]))
  backend.decoder = decoders.Fuse()
  backend.add_special_tokens(["$"])
  return Tokenizer(backend, special_tokens={"eos_token": "$"})


def tokenised(tokenizer, prompt, *answers, kind="text", template=None, after_eos="drop") -> Tokenised:
  found = tokenise([PreferenceRow(kind, prompt, answers)], ["row"], tokenizer, template, after_eos=after_eos)[0]
  if isinstance(found, DataError):
    raise found
  return found


@pytest.fixture
def chat_template(request):
  opened = []

  def make(tokenizer, source=None):
    opened.append(ChatTemplate(source or tokenizer.chat_template, tokenizer))
    return opened[-1]

  yield make
  for template in opened:
    template.close()


@pytest.mark.parametrize("after_eos", ["drop", "keep"])
@pytest.mark.parametrize("kind", ["text", "chat"])
def test_an_answer_that_did_not_end_by_itself_has_no_eos(chat_template, kind, after_eos):
  tokenizer = merging()
  source = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}$b{% endif %}{% endfor %}"
  prompt = "d" if kind == "text" else [{"role": "user", "content": "d"}]
  row = PreferenceRow(kind, prompt, ("ac", "ad"), finished=(False, True))
  template = chat_template(tokenizer, source) if kind == "chat" else None
  (found,) = tokenise([row], ["row"], tokenizer, template, after_eos=after_eos)
  behind = ["b"] if kind == "chat" and after_eos == "keep" else []
  assert [tokenizer.pieces(ids) for ids in found.answers] == [["a", "c"], ["a", "d", "$", *behind]]


def test_a_merge_across_the_boundary_moves_it_for_every_answer():
  tokenizer = merging()
  found = tokenised(tokenizer, "db", "c", "d")  # db + c -> d bc
  assert tokenizer.pieces(found.prompt) == ["d"]
  assert [tokenizer.pieces(answer) for answer in found.answers] == [["bc", "$"], ["b", "d", "$"]]
  assert found.mismatch


def test_answers_that_begin_alike_keep_that_to_themselves():
  tokenizer = merging()
  found = tokenised(tokenizer, "d", "ac", "ad")
  assert tokenizer.pieces(found.prompt) == ["d"]
  assert [tokenizer.pieces(answer) for answer in found.answers] == [["a", "c", "$"], ["a", "d", "$"]]
  assert not found.mismatch


@settings(max_examples=60, deadline=None)
@given(
  st.text("abcd", min_size=1, max_size=8), st.lists(st.text("abcd", min_size=1, max_size=8), min_size=1, max_size=4)
)
def test_prompt_and_answer_are_the_joint_tokens_and_the_prompt_holds_no_answer(prompt, answers):
  tokenizer = merging()
  found = tokenised(tokenizer, prompt, *answers)
  for ids, answer in zip(found.answers, answers, strict=True):
    assert found.prompt + ids == [*tokenizer.encode(prompt + answer), tokenizer.eos_id]
  assert prompt.startswith(tokenizer.decode(found.prompt))
  # As long as it can be: one token more would differ between answers or reach into one.
  wholes = [found.prompt + ids for ids in found.answers] + [tokenizer.encode(prompt)]
  longer = {tuple(whole[: len(found.prompt) + 1]) for whole in wholes}
  assert len(longer) > 1 or len(found.prompt) == len(wholes[-1])


def test_words_are_joined_by_a_space():
  tokenizer = Tokenizer.from_words(["good", "day", "."], eos="<end>")
  found = tokenised(tokenizer, "good day .", "day .", "good .")
  assert tokenizer.pieces(found.prompt) == ["good", " day", " ."]
  assert [tokenizer.decode(answer) for answer in found.answers] == ["day . <end>", "good . <end>"]


def test_bos_as_the_tokenizer_and_never_twice(llama, chatml):
  for prompt in ("hello", "<s>hello"):
    found = tokenised(llama, prompt, " yes", " no")
    assert found.prompt.count(llama.bos_id) == 1 and found.prompt[0] == llama.bos_id
    assert all(llama.bos_id not in answer for answer in found.answers)
  assert chatml.bos_id not in tokenised(chatml, "hello", " yes").prompt


def test_a_template_that_writes_bos_gets_no_second_one(llama, chat_template):
  messages = [{"role": "user", "content": "hello"}]
  found = tokenised(llama, messages, "yes", "no", kind="chat", template=chat_template(llama))
  assert found.prompt[0] == llama.bos_id and found.prompt.count(llama.bos_id) == 1
  assert llama.decode(found.prompt) == "<s>[INST] hello [/INST]"
  assert [llama.decode(answer) for answer in found.answers] == [" yes </s>", " no </s>"]


def test_eos_once_at_the_end_of_plain_answers(chatml):
  found = tokenised(chatml, "hello", " yes", " no<|im_end|>")
  assert [chatml.decode(answer) for answer in found.answers] == [" yes<|im_end|>", " no<|im_end|>"]


def test_what_follows_eos_in_a_template_is_dropped_or_kept(chatml, chat_template):
  template = chat_template(chatml)
  earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
  dropped = tokenised(chatml, earlier, "yes", "no", kind="chat", template=template)
  assert [chatml.decode(answer) for answer in dropped.answers] == ["yes<|im_end|>", "no<|im_end|>"]
  kept = tokenised(chatml, earlier, "yes", "no", kind="chat", template=template, after_eos="keep")
  assert [chatml.decode(answer) for answer in kept.answers] == ["yes<|im_end|>\n", "no<|im_end|>\n"]
  assert dropped.prompt == kept.prompt
  assert chatml.decode(dropped.prompt).endswith("<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n")


def test_an_eos_written_inside_an_answer_does_not_end_it(chatml, chat_template):
  messages = [{"role": "user", "content": "hello"}]
  found = tokenised(chatml, messages, "yes<|im_end|> no", kind="chat", template=chat_template(chatml))
  assert chatml.decode(found.answers[0]) == "yes<|im_end|> no<|im_end|>"


def test_an_eos_that_the_answer_brings_along_is_not_doubled(chatml, chat_template):
  messages = [{"role": "user", "content": "hello"}]
  found = tokenised(chatml, messages, "yes<|im_end|>", kind="chat", template=chat_template(chatml))
  assert chatml.decode(found.answers[0]) == "yes<|im_end|>"


def test_of_two_ends_the_first_ends_the_answer(plain, chat_template):
  """As Phi-3's template, which writes <|end|> and then <|endoftext|>."""
  backend = tokenizers.Tokenizer.from_str(plain._backend.to_str())
  backend.add_special_tokens(["<|stop|>"])
  stop = backend.token_to_id("<|stop|>")
  tokenizer = Tokenizer(backend, special_tokens={"eos_token": "<|im_end|>"}, eos_ids=[stop])
  template = chat_template(tokenizer, "{% for m in messages %}{{ m.content }}<|stop|>\n{% endfor %}<|im_end|>")
  found = tokenised(tokenizer, [{"role": "user", "content": "hi"}], "yes", kind="chat", template=template)
  assert tokenizer.decode(found.answers[0]) == "yes<|stop|>"


def test_the_eos_of_an_earlier_turn_is_not_taken_for_the_answers(chatml, chat_template):
  source = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %}<|im_end|>{% endif %}{% endfor %}"
  found = tokenised(
    chatml, [{"role": "user", "content": "hi"}], "yes", kind="chat", template=chat_template(chatml, source)
  )
  assert chatml.decode(found.prompt + found.answers[0]) == "user: hi<|im_end|>assistant: yes<|im_end|>"


def test_a_template_without_eos_gets_one(chatml, chat_template):
  template = chat_template(chatml, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
  found = tokenised(chatml, [{"role": "user", "content": "hi"}], "yes", "no", kind="chat", template=template)
  assert [chatml.decode(answer) for answer in found.answers] == [
    "assistant: yes\n<|im_end|>",
    "assistant: no\n<|im_end|>",
  ]


def test_ids_are_left_as_they_are(chatml):
  found = tokenised(chatml, [5, 6], [7, 8], [9], kind="ids")
  assert (found.prompt, found.answers) == ([5, 6], [[7, 8], [9]])
  with pytest.raises(DataError, match=f"token id 9999 is outside the vocabulary of {chatml.vocab_size}"):
    tokenised(chatml, [5], [9999], kind="ids")
  with pytest.raises(DataError, match="token id -1 is outside"):
    tokenised(chatml, [5], [-1], kind="ids")


def test_conversations_without_a_template_name_the_row_and_the_option(plain):
  with pytest.raises(DataError, match=r"row: it holds messages, but the tokenizer has no chat template; give one as"):
    tokenised(plain, [{"role": "user", "content": "hi"}], "yes", kind="chat")


def test_a_tokenizer_without_eos_is_refused():
  backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}))
  with pytest.raises(DataError, match="the tokenizer has no EOS token to end answers with; add eos_token to"):
    tokenised(Tokenizer(backend, special_tokens={}), "a", "a")


ALTERNATING = (
  "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
)


def rows_of_roles(*patterns):
  def messages(pattern):
    return [{"role": {"u": "user", "a": "assistant"}[c], "content": f"hello {i}"} for i, c in enumerate(pattern)]

  yes, no = ([{"role": "assistant", "content": text}] for text in ("yes", "no"))
  return [{"prompt": messages(p), "chosen": yes, "rejected": no} for p in patterns]


def test_a_row_the_template_refuses_is_counted_and_noted(chatml, tmp_path):
  (tmp_path / "t.jinja").write_text(ALTERNATING)
  settings = DataSettings(template=str(tmp_path / "t.jinja"))
  rows = rows_of_roles("u", "uu", "uau", "a", "u")
  dataset = dataset_from_rows(rows, settings, chatml, answers=Answers.PAIR, row_length=256)
  assert dataset.counts["dropped/malformed"] == 2 and dataset.counts["kept"] == 3
  assert [note.split(": ")[0] for note in dataset.notes] == ["rows[1]", "rows[3]"]
  assert "roles must alternate" in dataset.notes[0]


@pytest.mark.slow
def test_a_template_that_refuses_the_first_row_or_many_stops_the_reading(chatml, tmp_path):
  (tmp_path / "t.jinja").write_text(ALTERNATING)
  settings = DataSettings(template=str(tmp_path / "t.jinja"))
  with pytest.raises(TemplateError, match=r"rows\[0\]: chat template.*roles must alternate"):
    dataset_from_rows(rows_of_roles("uu", "u"), settings, chatml, answers=Answers.PAIR, row_length=256)
  with pytest.raises(TemplateError, match=r"rows\[21\]: chat template.*roles must alternate"):
    dataset_from_rows(rows_of_roles("u", *["uu"] * 30), settings, chatml, answers=Answers.PAIR, row_length=256)


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("{% for %}", "chat template, line 1: does not compile"),
    ("{{ messages[0].content }}", "chat template: it leaves out what the assistant says"),
    ("{{ ''.__class__.__mro__ }}", "chat template, line 1: fails on conversation 0: .*unsafe"),
  ],
)
def test_a_template_that_cannot_work_is_refused_at_once(chatml, source, message):
  with pytest.raises(TemplateError, match=message):
    ChatTemplate(source, chatml)


def test_a_missing_template_file_names_the_option(chatml):
  with pytest.raises(
    DataError, match=r"data\.template=/no/such\.jinja: .*; give auto, none, or the path of a Jinja file"
  ):
    dataset_from_rows(
      [{"prompt": "a", "chosen": "b", "rejected": "c"}],
      DataSettings(template="/no/such.jinja"),
      chatml,
      answers=Answers.PAIR,
      row_length=64,
    )


@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_prompts_for_sampling_are_the_prompts_of_training(name, template, request):
  tokenizer = request.getfixturevalue(name)
  settings = DataSettings(template=template)
  prompts = ["what is the answer?", "hello there"]
  rows = [{"prompt": prompt, "chosen": " yes", "rejected": " no"} for prompt in prompts]
  dataset = dataset_from_rows(rows, settings, tokenizer, answers=Answers.PAIR, row_length=256)
  encoded = encode_prompts(prompts, settings, tokenizer)
  assert [ids.tolist() for ids in encoded] == [dataset[i].prompt.tolist() for i in range(2)]


def test_an_empty_prompt_cannot_be_sampled_from(plain):
  with pytest.raises(DataError, match="prompt 1 is empty, and the tokenizer puts no BOS before it; write some text"):
    encode_prompts(["hello", ""], DataSettings(), plain)


IDS = st.lists(st.integers(0, 2), max_size=6)


@given(IDS, st.lists(IDS, min_size=1, max_size=3))
def test_the_prompt_is_what_all_texts_begin_with(prompt, fulls):
  texts = [prompt, *fulls]
  shared = max(n for n in range(len(prompt) + 1) if all(ids[:n] == prompt[:n] and len(ids) >= n for ids in texts))
  divided = _divide(prompt, fulls)
  assert divided.prompt == prompt[:shared]
  assert [divided.prompt + answer for answer in divided.answers] == fulls
  assert divided.mismatch == (shared < len(prompt))
