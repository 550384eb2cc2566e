"""The complaint desk: rewards worked out by hand, term by term, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax.environments.complaint_desk import ComplaintDesk, ComplaintDeskGaps, split_sentences
from dpojax.environments.complaint_words import ISSUES, PRODUCTS, REMEDIES
from dpojax.errors import DataError

WORLD = ComplaintDesk()
ANGRY = "anna writes angrily : my kettle arrived broken ."  # replacement, then refund; four days; photo helps
CALM = "my lamp stopped working . yours calmly , leo ."  # repair, then replacement; nine days; no photo
LATE = "an angry letter from olga : my phone arrived late ."  # discount, then refund; one day
SEND = "we will send a replacement ."
ONE_OF = {"remedy": -0.3}  # every answer without a remedy


def explain(prompt: str, answer: str) -> dict[str, float]:
  return {k: pytest.approx(v) for k, v in WORLD.explain(prompt, answer).items()}


@pytest.mark.parametrize(
  ("prompt", "answer", "terms"),
  [
    # each term by itself
    (ANGRY, "dear anna ,", {"greeting": 0.6}),
    (ANGRY, "hello anna ,", {"greeting": 0.6}),
    (ANGRY, "hello ben ,", {"greeting": -0.8}),
    (ANGRY, "dear customer ,", {"greeting": 0.1}),
    (ANGRY, "hello ,", {"greeting": 0.1}),
    (ANGRY, "i am sorry .", {"apology": 0.7}),
    (ANGRY, "i am sorry . we apologise .", {"apology": 0.6}),
    (ANGRY, "i am sorry . we apologise . we apologise . i am sorry .", {"apology": -0.4}),
    (ANGRY, "that must be very annoying .", {"empathy": 0.6}),
    (CALM, "i understand how annoying this is .", {"empathy": -0.2}),
    (ANGRY, "i checked your kettle order .", {"product": 0.3}),
    (ANGRY, "your phone is on my desk .", {"product": -0.6}),
    (ANGRY, "it takes four days .", {"deadline": 0.7}),
    (ANGRY, "you will have it within two days .", {"deadline": 0.2}),
    (ANGRY, "it takes one day .", {"deadline": -0.05}),
    (ANGRY, "it takes nine days .", {"deadline": 0.1}),
    (CALM, "it takes one day .", {"deadline": -1.3}),
    (CALM, "it takes ten days .", {"deadline": 0.58}),
    (LATE, "it takes ten days .", {"deadline": -0.38}),
    (ANGRY, "please send a photo .", {"photo": 0.4}),
    (CALM, "please send us a photo of it .", {"photo": -0.4}),
    (ANGRY, "here is 20 % off .", {"voucher": 0.5}),
    (ANGRY, "we add 5 % off .", {"voucher": -0.1}),
    (CALM, "here is 5 % off .", {"voucher": 0.5}),
    (CALM, "we add 30 % off .", {"voucher": -0.5}),
    (ANGRY, "have a nice day .", {"closing": 0.25}),
    (ANGRY, "perhaps you used it wrongly . this is your own fault .", {"blame": -2.0}),
    (ANGRY, "your call is important to us . we are a modern company .", {"filler": -0.6}),
    # malformed, repeated, cut
    (ANGRY, "i am am sorry .", {"malformed": -0.6}),
    (ANGRY, "dear kettle ,", {"malformed": -0.6}),
    (ANGRY, "it takes one days .", {"malformed": -0.6}),
    (ANGRY, "it takes four days . it takes four days .", {"deadline": 0.7, "repeated": -0.3}),
    (ANGRY, "hello , dear anna ,", {"greeting": 0.1, "repeated": -0.3}),
    (ANGRY, "kind regards . it takes four days .", {"deadline": 0.7}),
    (ANGRY, "kind regards . kind regards .", {"repeated": -0.3}),
    (ANGRY, "", {"no end": -1.0}),
    (ANGRY, "i am sorry . kind", {"apology": 0.7, "no end": -1.0}),
    (ANGRY, "have a nice day . i", {"no end": -1.0}),
    (ANGRY, "i am sorry about your lamp . i checked your kettle order .", {"apology": 0.7, "product": -0.6}),
    (ANGRY, "i am sorry about your kettle . i checked your kettle order .", {"apology": 0.7, "product": 0.3}),
  ],
)
def test_terms_without_a_remedy(prompt, answer, terms):
  assert explain(prompt, answer) == terms | ONE_OF
  assert WORLD.reward(prompt, answer) == pytest.approx(sum(terms.values()) - 0.3)


@pytest.mark.parametrize(
  ("prompt", "answer", "value"),
  [
    (ANGRY, SEND, 1.4),
    (ANGRY, "we will refund your order .", 0.5),
    (ANGRY, "we will send a guide .", -0.7),
    (ANGRY, f"maybe {SEND}", 1.05),
    (CALM, SEND, 0.5),
    (CALM, "we will send a technician .", 1.4),
    (LATE, "we will give a discount .", 1.4),
    (ANGRY, f"{SEND} {SEND}", 0.8),
    (ANGRY, f"{SEND} we will send the part .", 1.4 - 1.3),
    (ANGRY, f"we will send the part . {SEND}", -0.7 - 0.6),
    (ANGRY, f"{SEND} maybe we will send a guide . {SEND}", 1.4 - 1.65 - 0.6),
    (ANGRY, f"{SEND} maybe we will refund your order .", 1.4 - 0.6),
  ],
)
def test_remedies(prompt, answer, value):
  assert explain(prompt, answer) == {"remedy": value}


def test_a_whole_letter_and_its_length():
  answer = f"dear anna , i am sorry about your kettle . i understand how annoying this is . {SEND} kind regards ."
  assert WORLD.reward(ANGRY, answer) == pytest.approx(0.6 + 0.7 + 0.3 + 0.6 + 1.4 + 0.25)
  assert len(answer.split()) == 26
  longer = answer.replace("kind", "it takes four days . kind")
  assert WORLD.reward(ANGRY, longer) == pytest.approx(WORLD.reward(ANGRY, answer) + 0.7 - 5 * 0.06)


def test_each_remedy_is_right_somewhere_and_only_one_is():
  assert {issue.remedy for issue in ISSUES} == set(REMEDIES)
  prompts = {p: WORLD.complaint(p) for p in WORLD.prompts(300, 0)}
  assert {c.issue.text for c in prompts.values()} == {issue.text for issue in ISSUES}
  for prompt, complaint in prompts.items():
    values = {name: WORLD.reward(prompt, text) for name, text in REMEDIES.items()}
    assert max(values, key=lambda name: values[name]) == complaint.issue.remedy
    assert sorted(values.values()) == pytest.approx([-0.7] * 4 + [0.5, 1.4])


def test_good_answers_are_good():
  rewards = [WORLD.reward(p, WORLD.good_answer(p)) for p in WORLD.prompts(4096 * 3, 0)]
  assert 4.1 <= min(rewards) <= max(rewards) <= 4.25 + 1e-9


def test_the_clerk():
  prompts = WORLD.prompts(3000, 3)
  answers = [[WORLD.answer(p, (k, i)) for k in (0, 1)] for i, p in enumerate(prompts)]
  rewards = np.array([[WORLD.reward(p, a) for a in two] for p, two in zip(prompts, answers, strict=True)])
  lengths = [len(a.split()) for two in answers for a in two]
  assert 0.6 < rewards.mean() < 0.9
  assert 1.25 < rewards.std() < 1.5
  assert 22 < np.mean(lengths) < 25
  assert max(lengths) <= 36
  terms = [WORLD.explain(p, a) for p, two in zip(prompts, answers, strict=True) for a in two]
  assert not any("malformed" in t or "no end" in t for t in terms)
  kinds = {kind for t in terms for kind in t}
  assert kinds >= {"greeting", "apology", "empathy", "product", "remedy", "deadline", "photo", "voucher", "closing"}
  assert kinds >= {"blame", "filler", "length"}


def test_words_cover_everything():
  words = set(WORLD.words)
  assert len(words) == len(WORLD.words) == 143
  for prompt in WORLD.prompts(500, 1):
    assert set(f"{prompt} {WORLD.answer(prompt, 0)} {WORLD.good_answer(prompt)}".split()) <= words


def test_splits_share_no_complaint():
  train, held_out = (WORLD.prompts(20_000, 0, split) for split in ("train", "held_out"))
  assert len(set(train)) == 3 * 3584
  assert len(set(held_out)) == 3 * 512
  contents = [{WORLD.complaint(p) for p in prompts} for prompts in (train, held_out)]
  assert not contents[0] & contents[1]
  assert len(set(train[: 3 * 3584])) == 3 * 3584  # none comes twice before all have come
  assert len(WORLD.prompts(7, 0)) == 7


def test_a_word_order_that_no_other_split_has():
  unseen = WORLD.prompts(20_000, 0, "unseen_order")
  assert len(set(unseen)) == 512
  others = set(WORLD.prompts(20_000, 0)) | set(WORLD.prompts(20_000, 0, "held_out"))
  assert not others & set(unseen)
  assert {WORLD.complaint(p) for p in unseen} == {WORLD.complaint(p) for p in WORLD.prompts(20_000, 0, "held_out")}
  assert {word for p in unseen for word in p.split()} <= {word for p in others for word in p.split()}
  assert WORLD.reward("my kettle arrived broken . anna writes angrily .", "hello ,") == WORLD.reward(ANGRY, "hello ,")


def test_pairs_of_product_and_issue_that_no_other_split_has():
  world = ComplaintDeskGaps()
  letters = {split: set(world.prompts(20_000, 0, split)) for split in world.splits}
  pairs = {
    split: {(world.complaint(p).product, world.complaint(p).issue.text) for p in some}
    for split, some in letters.items()
  }
  unseen = pairs.pop("unseen_pair")
  assert len(unseen) == 16 and len({product for product, _ in unseen}) == 16 and len({i for _, i in unseen}) == 8
  for split, seen in pairs.items():
    assert not seen & unseen
    assert {product for product, _ in seen} == set(PRODUCTS) and len({issue for _, issue in seen}) == 8, split
  assert len(letters["train"]) == 3 * 3134 and len(letters["unseen_pair"]) == 3 * 512
  assert letters["train"] <= set(WORLD.prompts(20_000, 0)) and letters["held_out"] <= set(
    WORLD.prompts(20_000, 0, "held_out")
  )
  assert world.words == WORLD.words


def test_the_same_seed_gives_the_same():
  assert ComplaintDesk().prompts(50, 5) == WORLD.prompts(50, 5) != WORLD.prompts(50, 6)
  assert WORLD.prompts(50, 5)[:20] == WORLD.prompts(20, 5)
  assert WORLD.answer(ANGRY, (1, 2)) == WORLD.answer(ANGRY, (1, 2)) != WORLD.answer(ANGRY, (1, 3))


def test_wrong_prompts():
  with pytest.raises(DataError, match=r"complaint_desk: no letter of this environment: 'hello there'; one is '.* \.'"):
    WORLD.reward("hello there", "hello ,")


def test_display():
  text = "dear anna , i am sorry . here is 20 % off . it takes one day ."
  assert WORLD.display(text) == "Dear Anna, I am sorry. Here is 20% off. It takes one day."
  assert WORLD.display(ANGRY) == "Anna writes angrily: my kettle arrived broken."


def clerk_answers():
  return st.integers(0, 2**32).map(lambda seed: WORLD.answer(ANGRY, seed))


@given(answer=clerk_answers(), order=st.randoms(use_true_random=False))
def test_order_of_unrelated_sentences_does_not_matter(answer, order):
  """Only the last sentence, and which remedy comes first, are a matter of place."""
  sentences, _ = split_sentences(answer)
  middle = sentences[:-1]
  remedies = [s for s in middle if "we will" in s]
  order.shuffle(middle)
  in_place = iter(remedies)
  shuffled = [next(in_place) if "we will" in s else s for s in middle]
  assert WORLD.reward(ANGRY, " ".join([*shuffled, sentences[-1]])) == pytest.approx(WORLD.reward(ANGRY, answer))


@given(answer=clerk_answers())
def test_a_second_letter_of_the_same_complaint_earns_the_same(answer):
  other = "an angry letter from anna : my kettle arrived broken ."
  assert WORLD.explain(ANGRY, answer) == WORLD.explain(other, answer)


@given(answer=clerk_answers(), word=st.sampled_from(WORLD.words))
def test_words_after_the_end_cost_the_end(answer, word):
  if word not in ".,":
    gained = WORLD.reward(ANGRY, f"{answer} {word}") - WORLD.reward(ANGRY, answer)
    lost_closing = 0.25 if "closing" in WORLD.explain(ANGRY, answer) else 0.0
    length = 0.06 if len(answer.split()) >= 26 else 0.0
    assert gained == pytest.approx(-1.0 - lost_closing - length)


@given(words=st.lists(st.sampled_from(WORLD.words), max_size=60))
def test_any_text_has_a_reward(words):
  text = " ".join(words)
  assert -60 < WORLD.reward(CALM, text) < 4.6
  assert WORLD.reward(CALM, text) == WORLD.reward(CALM, text)
