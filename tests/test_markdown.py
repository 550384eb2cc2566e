"""Text in Markdown, read by another parser: it is shown as it is, and none of it is markup."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dpojax.interop.model_card import model_card
from dpojax.markdown import code, escape
from dpojax.report.samples import side_by_side_markdown
from dpojax.report.tables import markdown
from dpojax.terminal import in_line, shown

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# Letters of markup beside others, so that hypothesis soon puts them in places where they mean something.
MARKUP = st.text(st.sampled_from("#*_`~|[]()!<>&\\-+=.:$1 a\n\t文\x1b\"'/"), max_size=40)
ATTACKS = [
  "# heading",
  "```\ncode\n```",
  "~~~",
  "[link](https://example.org)",
  "![image](x.png)",
  "<img src=x onerror=alert(1)>",
  "<https://example.org>",
  "<div class",
  "<!-- a comment",
  "a` [link](https://example.org) <b>loud</b> `b",
  "| a | b |\n|:--|:--|\n| c | d |",
  "`` ` ``",
  "a\n===",
  "a\n---",
  "1. one\n2) two",
  "- [ ] task",
  "> quote",
  "[a]: https://example.org",
  "&lt;b&gt; &copy;",
  "\\| \\\\| \\",
  "~~gone~~ **loud** __loud__ _soft_ $x$",
  "    four spaces",
]


def words(text):
  """What is left to read: no spaces, which Markdown does not keep."""
  return re.sub(r"\s", "", shown(text))


def said(tokens):
  """(text, kinds of everything else) of what a parser has found."""
  texts, kinds = [], []
  for token in tokens:
    if token.type == "inline":
      inner, others = said(token.children)
      texts.append(inner)
      kinds += others
    elif token.type in ("text", "text_special"):
      texts.append(token.content)
    elif not (token.type == "html_inline" and token.content == "<br>") and token.type != "softbreak":
      kinds.append(token.type)
  return "".join(texts), kinds


def attacks(test):
  for text in ATTACKS:
    test = example(text)(test)
  return test


@attacks
@given(MARKUP)
def test_in_a_paragraph(text):
  found, kinds = said(PARSER.parse(f"{escape('x' + text)}"))
  assert (words(found), kinds) == (words("x" + text), ["paragraph_open", "paragraph_close"])


@attacks
@given(MARKUP)
def test_at_the_beginning_of_a_paragraph(text):
  if words(text):
    found, kinds = said(PARSER.parse(escape(text.strip())))
    assert (words(found), kinds) == (words(text), ["paragraph_open", "paragraph_close"])


@attacks
@given(MARKUP)
def test_in_a_heading(text):
  found, kinds = said(PARSER.parse(f"# {escape(text)}\n\nafter"))
  assert words(found) == words(text) + "after"
  assert kinds == ["heading_open", "heading_close", "paragraph_open", "paragraph_close"]


@attacks
@given(MARKUP)
def test_in_a_cell(text):
  tokens = PARSER.parse(markdown(["a", "b"], [[text, "last"], ["c", text]]) + "\n\nafter")
  found, kinds = said(tokens)
  assert words(found) == f"ab{words(text)}lastc{words(text)}after"
  assert [kind for kind in kinds if kind not in ("paragraph_open", "paragraph_close")] == [
    kind for kind in said(PARSER.parse("|a|b|\n|:--|--:|\n|x|last|\n|c|x|"))[1]
  ]


@attacks
@given(MARKUP)
def test_in_a_code_span(text):
  (token,) = [token for token in PARSER.parse(f"x {code(text)} y") if token.type == "inline"]
  if not text:
    return  # two backticks with nothing between them are no span
  assert token.children is not None and [child.type for child in token.children] == ["text", "code_inline", "text"]
  assert token.children[1].content.strip() == in_line(text).strip()


@pytest.mark.parametrize("text", ATTACKS)
def test_samples_and_cards_hold_no_markup_of_others(text):
  sample = {"prompt": text, "answer": text, "tokens": 3, "finished": True, "rewards": {text: 1.0}}
  kinds = said(PARSER.parse(side_by_side_markdown([sample], [sample])))[1]
  assert not {"link_open", "image", "html_inline", "html_block", "fence", "code_inline", "strong_open"} & set(kinds)
  settings = {"recipe": "preference", "model": {"path": text}}
  for data in (
    {"source": "file", "path": text},
    {"source": "hub", "path": "", "name": text, "revision": text, "split": text},
  ):
    card = model_card(text, settings | {"data": data | {"template": "none"}}, None, method=text)
    body = card.split("---\n", 2)[2]
    tokens = PARSER.parse(body)
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2", "h2"]
    assert [token.type for token in tokens].count("fence") == 2
    assert not {"link_open", "image", "html_inline", "html_block", "strong_open"} & set(said(tokens)[1])
