"""A complaint desk whose true reward is known: letters of complaint, and answers by clerks of mixed quality.

A prompt names a customer, a product, an issue and a mood::

    anna writes angrily : my kettle arrived broken .

and a good answer to it scores about 4.2::

    dear anna , i am sorry about your kettle . i understand how annoying this is . we will send a
    replacement . please send a photo . you will have it within four days . kind regards .

Text is lower-case words and punctuation between single spaces, one token each. The true reward reads
an answer sentence by sentence, so it is exact for any text, not only for the clerk's. It is graded
(a clerk averages 0.6 with a spread of 1.3), never saturates for a small model, and can be gamed only
by answers that are good: what it takes to see how far a method is pulled from its reference.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpojax.environments.complaint_words import (
  ISSUES,
  LETTERS,
  NAMES,
  NUMBERS,
  PRODUCTS,
  REMEDIES,
  SENTENCES,
  UNSEEN_LETTER,
  VOUCHERS,
  Issue,
)
from dpojax.errors import DataError

FREE_TOKENS = 26  # of an answer; each further one costs


@dataclasses.dataclass(frozen=True)
class Complaint:
  """What a prompt says."""

  name: str
  product: str
  issue: Issue
  angry: bool

  def letter(self, order: int) -> str:
    """The letter in one of three word orders, or (3) in one that no letter to train on has."""
    mood = dict(manner="angrily", kind="an angry") if self.angry else dict(manner="calmly", kind="a calm")
    return (*LETTERS, UNSEEN_LETTER)[order].format(name=self.name, product=self.product, issue=self.issue.text, **mood)


@dataclasses.dataclass(frozen=True)
class Sentence:
  """One parsed sentence: its kind and the words in its slots (None where it has no such slot)."""

  kind: str
  name: str | None = None
  product: str | None = None
  days: int | None = None
  percent: int | None = None
  remedy: str | None = None
  maybe: bool = False


def _days(number: int) -> str:
  return f"{NUMBERS[number - 1]} {'day' if number == 1 else 'days'}"


def _all_sentences() -> dict[str, Sentence]:
  """Every well-formed sentence and what it says."""
  values = {
    "name": [(n, n) for n in NAMES],
    "product": [(p, p) for p in PRODUCTS],
    "days": [(_days(n), n) for n in range(1, len(NUMBERS) + 1)],
    "percent": [(str(v), v) for v in VOUCHERS],
  }
  found = {}
  for kind, patterns in SENTENCES.items():
    for pattern in patterns:
      slot = next((s for s in values if "{" + s + "}" in pattern), None)
      for text, value in values[slot] if slot else [("", None)]:
        said: dict[str, Any] = {} if slot is None else {slot: value}
        found[pattern.format(**{slot or "": text})] = Sentence(kind, **said)
  for remedy, text in REMEDIES.items():
    found[text] = Sentence("remedy", remedy=remedy)
    found[f"maybe {text}"] = Sentence("remedy", remedy=remedy, maybe=True)
  return found


_SENTENCES = _all_sentences()
_CONTENTS = [
  Complaint(name, product, issue, angry)
  for name, product, issue, angry in itertools.product(NAMES, PRODUCTS, ISSUES, (False, True))
]
_COMPLAINTS = {c.letter(order): c for order in range(len(LETTERS) + 1) for c in _CONTENTS}
_HELD_OUT_SHARE = 8  # one complaint in 8, in all its word orders


def _split_contents() -> tuple[list[Complaint], list[Complaint]]:
  order = np.random.default_rng(2305_18290).permutation(len(_CONTENTS))
  held_out = len(_CONTENTS) // _HELD_OUT_SHARE
  return [_CONTENTS[i] for i in order[held_out:]], [_CONTENTS[i] for i in order[:held_out]]


def _is_gap(complaint: Complaint) -> bool:
  """Whether its product and issue are a pair that `ComplaintDeskGaps` holds out: one issue a product, two products an issue."""
  return PRODUCTS.index(complaint.product) % len(ISSUES) == ISSUES.index(complaint.issue)


def split_sentences(text: str) -> tuple[list[str], str]:
  """Sentences, each with its closing "." or ",", and what is left after the last of them."""
  sentences, current = [], []
  for word in text.split():
    current.append(word)
    if word in (".", ","):
      sentences.append(" ".join(current))
      current = []
  return sentences, " ".join(current)


class ComplaintDesk:
  """The environment itself: prompts, a clerk's answers, and the true reward. Every method is pure."""

  name = "complaint_desk"

  def __init__(self) -> None:
    letters = [c.letter(order) for order in range(len(LETTERS)) for c in _CONTENTS]
    self.words = sorted({word for text in (*letters, *_SENTENCES) for word in text.split()})
    train, held_out = _split_contents()
    every = range(len(LETTERS))
    self._splits = {"train": (train, every), "held_out": (held_out, every), "unseen_order": (held_out, [len(LETTERS)])}

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits."""
    return tuple(self._splits)

  def prompts(self, n: int, seed: int, split: str = "train") -> list[str]:
    """`n` letters in random order, none twice before all of the split have come.

    "train" and "held_out" share no combination of customer, product, issue and mood: the one has 3,584 of them, the
    other 512, each in three word orders. "unseen_order" has those of "held_out" in a fourth, which is in no other split.
    """
    contents, orders = self._splits[split]
    letters = [c.letter(order) for c in contents for order in orders]
    generator = np.random.default_rng([seed, split == "train"])
    rounds = [generator.permutation(len(letters)) for _ in range(-(-n // len(letters)))]
    return [letters[i] for i in itertools.islice(itertools.chain(*rounds), n)]

  def complaint(self, prompt: str) -> Complaint:
    """What the letter says.

    Raises:
      DataError: it is not a letter of this environment.
    """
    try:
      return _COMPLAINTS[prompt]
    except KeyError:
      example = self.prompts(1, 0)[0]
      raise DataError(f"complaint_desk: no letter of this environment: {prompt!r}; one is {example!r}") from None

  def reward(self, prompt: str, answer: str) -> float:
    """The true reward of an answer to a letter, the sum of `explain`."""
    total = 0.0  # added up one by one: `sum` compensates its rounding from Python 3.12 on, and gives other last digits
    for value in self.explain(prompt, answer).values():
      total += value
    return total

  def explain(self, prompt: str, answer: str) -> dict[str, float]:
    """The true reward, term by term; terms that are zero are left out.

    greeting: right name 0.6, wrong -0.8, generic 0.1. apology: 0.7, a second -0.1, each later -0.5.
    empathy: 0.6 if the customer is angry, else -0.2. product: -0.6 if a wrong one is named, else 0.3 if
    the right one is. remedy: right 1.4, next best 0.5, wrong -0.7, none -0.3; each further one
    min(its value, 0) - 0.6; "maybe" -0.35 each. deadline: 0.7 less 0.25 a day that it is too early, or
    0.12 a day too late. photo: 0.4 if it serves as proof, else -0.4. voucher: 0.5
    less 0.04 a point from 20 % if angry, from 5 % if calm. closing: 0.25 if last. blame: -1 each.
    filler: -0.3 each. A sentence that is no sentence: malformed, -0.6; a kind of sentence that came
    before (where nothing is said above): repeated, -0.3. no end: -1 where the last sentence is cut.
    length: -0.06 a token beyond 26.
    """
    complaint = self.complaint(prompt)
    texts, rest = split_sentences(answer)
    sentences = [_SENTENCES.get(text) for text in texts]
    terms: dict[str, float] = {}

    def add(term: str, value: float) -> None:
      terms[term] = terms.get(term, 0.0) + value

    seen: dict[str, int] = {}
    for place, sentence in enumerate(sentences):
      if sentence is None:
        add("malformed", -0.6)
        continue
      kind = sentence.kind.removeprefix("generic ")
      count = seen[kind] = seen.get(kind, 0) + 1
      if kind == "apology":
        add(kind, (0.7, -0.1, -0.5)[min(count, 3) - 1])
      elif kind == "remedy":
        value = _remedy_value(complaint, sentence)
        add(kind, value if count == 1 else min(value, 0.0) - 0.6)
      elif kind in ("blame", "filler"):
        add(kind, -1.0 if kind == "blame" else -0.3)
      elif count > 1:
        add("repeated", -0.3)
      elif kind == "closing":
        add(kind, 0.25 if place == len(sentences) - 1 and not rest else 0.0)
      else:
        add(kind, _plain_value(complaint, sentence))
    if "remedy" not in seen:
      add("remedy", -0.3)
    if named := {s.product for s in sentences if s is not None and s.product}:
      add("product", 0.3 if named == {complaint.product} else -0.6)
    if rest or not sentences:
      add("no end", -1.0)
    add("length", -0.06 * max(0, len(answer.split()) - FREE_TOKENS))
    return {term: value for term, value in terms.items() if value}

  def good_answer(self, prompt: str) -> str:
    """A good answer, written by hand; it scores between 4.1 and 4.25."""
    c = self.complaint(prompt)
    deadline = SENTENCES["deadline"][c.angry and c.issue.photo].format(days=_days(c.issue.days))
    parts = [
      f"dear {c.name} ,",
      f"i am sorry about your {c.product} .",
      "i understand how annoying this is ." if c.angry else "",
      REMEDIES[c.issue.remedy],
      "please send a photo ." if c.issue.photo else "",
      deadline,
      "" if c.angry or c.issue.photo else "here is 5 % off .",
      "kind regards .",
    ]
    return " ".join(part for part in parts if part)

  def answer(self, prompt: str, seed: int | Sequence[int]) -> str:
    """What a clerk writes, at most 36 tokens; `seed` decides who it is and what comes to mind."""
    generator = np.random.default_rng(seed)
    complaint = self.complaint(prompt)
    while True:
      text = _clerk(complaint, generator)
      if 0 < len(text.split()) <= 36:
        return text

  def display(self, text: str) -> str:
    """The text as a person would write it: capitals, and no space before punctuation."""
    words = text.split()
    written = [w.capitalize() if w in NAMES or w == "i" or n == 0 or words[n - 1] == "." else w
               for n, w in enumerate(words)]  # fmt: skip
    joined = " ".join(written)
    for mark in ".,:%":
      joined = joined.replace(f" {mark}", mark)
    return joined


class ComplaintDeskGaps(ComplaintDesk):
  """The same desk, whose letters to train on lack 16 of the 128 pairs of product and issue: each product one issue.

  "unseen_pair" has the letters of these pairs, in the three word orders, and no other split has any: whoever does well
  there has learned products and issues apart. 3,134 contents are to train on, 450 held out and 512 of unseen pairs.
  """

  name = "complaint_desk_gaps"

  def __init__(self) -> None:
    super().__init__()
    known = {
      name: ([c for c in contents if not _is_gap(c)], orders) for name, (contents, orders) in self._splits.items()
    }
    self._splits = known | {"unseen_pair": ([c for c in _CONTENTS if _is_gap(c)], range(len(LETTERS)))}


def _remedy_value(complaint: Complaint, sentence: Sentence) -> float:
  values = {complaint.issue.remedy: 1.4, complaint.issue.second: 0.5}
  return values.get(str(sentence.remedy), -0.7) - (0.35 if sentence.maybe else 0.0)


def _plain_value(complaint: Complaint, sentence: Sentence) -> float:
  """The value of a sentence that counts once."""
  issue = complaint.issue
  match sentence.kind:
    case "generic greeting":
      return 0.1
    case "greeting":
      return 0.6 if sentence.name == complaint.name else -0.8
    case "empathy":
      return 0.6 if complaint.angry else -0.2
    case "deadline":
      early = issue.days - (sentence.days or 0)
      return 0.7 - 0.25 * early if early > 0 else 0.7 + 0.12 * early
    case "photo":
      return 0.4 if issue.photo else -0.4
    case "voucher":
      return 0.5 - 0.04 * abs((sentence.percent or 0) - (20 if complaint.angry else 5))
  return 0.0  # an order check says nothing but the product


def _clerk(complaint: Complaint, generator: np.random.Generator) -> str:
  """One answer by a clerk of quality q ~ U(0, 1)."""
  q = generator.random()
  issue = complaint.issue

  def chance(probability: float) -> bool:
    return generator.random() < probability

  def pick(options: Sequence[str]) -> str:
    return options[int(generator.integers(len(options)))]

  def copied(right: str, options: Sequence[str]) -> str:
    return pick(options) if chance(0.16) else right  # wrong 15 % of the time

  def say(kind: str, **slots: str) -> str:
    return pick(SENTENCES[kind]).format(**slots)

  def remedy() -> str:
    name = issue.remedy if chance(0.2 + 0.3 * q) else pick(list(REMEDIES))
    return ("maybe " if chance(0.4 * (1 - q)) else "") + REMEDIES[name]

  product = copied(complaint.product, PRODUCTS)
  opening = []
  if chance(0.7):
    name = copied(complaint.name, NAMES)
    opening.append(say("greeting", name=name) if chance(0.75) else say("generic greeting"))
  if chance(0.5):
    opening.append(say("apology", product=product))
  body = [remedy()] if chance(0.88) else []
  optional = {
    "empathy": 0.3,
    "blame": 0.5 * (1 - q),
    "check": 0.25,
    "photo": 0.25 + (0.2 * q if issue.photo else 0.0),
    "filler": 0.1 + 0.3 * (1 - q),
    "apology": 0.15,
  }
  body += [say(kind, product=product) for kind, probability in optional.items() if chance(probability)]
  if chance(0.12):
    body.append(remedy())
  if chance(0.5):
    days = issue.days if chance(0.05 + 0.3 * q) else int(generator.integers(1, len(NUMBERS) + 1))
    body.append(say("deadline", days=_days(days)))
  if chance(0.2):
    body.append(say("voucher", percent=str(VOUCHERS[int(generator.integers(len(VOUCHERS)))])))
  body = [body[i] for i in generator.permutation(len(body))]
  return " ".join(opening + body + ([say("closing")] if chance(0.5) else []))
