"""What comparisons are read from, and the errors of what cannot be read."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dpojax.bradley_terry import Comparisons
from dpojax.errors import DataError

WIN, TIE, LOSS = 2, 1, 0


def rows(data):
  """{(first, second, outcome): number}, the winner or the lesser label first."""
  found = {}
  for a, b, outcome, weight in zip(data.first, data.second, data.outcome, data.row_weight, strict=True):
    one, two = data.items[a], data.items[b]
    if outcome == LOSS or (outcome == TIE and two < one):
      one, two = two, one
    key = (one, two, "tie" if outcome == TIE else "win")
    found[key] = found.get(key, 0) + float(weight)
  return {key: number for key, number in found.items() if number}


def test_pairs():
  data = Comparisons.from_pairs(["b", "a", "c"], ["a", "b", "a"], tie=[False, True, False], weight=[1, 2, 0.5])
  assert data.items == ("a", "b", "c")
  assert rows(data) == {("b", "a", "win"): 1, ("a", "b", "tie"): 2, ("c", "a", "win"): 0.5}
  assert data.total_weight == 3.5 and len(data) == 3 and data.has_ties


@pytest.mark.parametrize(
  ("dtype", "low", "high"),
  [(np.int8, -128, 127), (np.uint8, 0, 255), (np.int16, -3, 4), (np.int32, -(2**31), 2**31 - 1), (np.uint64, 5, 2**63)],
)
def test_integer_labels_of_every_width_and_span(dtype, low, high):
  data = Comparisons.from_pairs(np.array([low, high], dtype), np.array([high, low], dtype))
  assert data.items == (low, high)
  assert rows(data) == {(low, high, "win"): 1, (high, low, "win"): 1}


def test_integer_labels_of_different_widths():
  data = Comparisons.from_pairs(np.array([3, 7], np.uint8), np.array([-5, 3], np.int64))
  assert rows(data) == {(3, -5, "win"): 1, (7, 3, "win"): 1}


@pytest.mark.parametrize("labels", [[4, 1, 9], ["d", "a", "i"], [10**12, 1, 5]])
def test_items_given_set_the_order_and_may_be_more_than_met(labels):
  data = Comparisons.from_pairs(labels[:2], labels[1:], items=labels)
  assert data.items == tuple(labels)
  assert data.first.tolist() == [0, 1] and data.second.tolist() == [1, 2]
  with pytest.raises(DataError, match=f"row 1: '?{labels[2]}'? is not among the items given"):
    Comparisons.from_pairs(labels[:2], labels[1:], items=labels[:2])


def test_a_matrix_counts_what_pairs_list():
  wins, ties = np.array([[0, 3, 1], [2, 0, 0], [0, 1, 0]]), np.array([[0, 1, 0], [1, 0, 2], [0, 2, 0]])
  data = Comparisons.from_matrix(wins, ties, items="abc")
  listed = [(i, j) for i in range(3) for j in range(3) for _ in range(wins[i, j])]
  tied = [(0, 1), (1, 2), (1, 2)]
  winner, loser = zip(*listed, *tied, strict=True)
  flags = [False] * len(listed) + [True] * len(tied)
  pairs = Comparisons.from_pairs(["abc"[i] for i in winner], ["abc"[j] for j in loser], tie=flags)
  assert rows(data) == rows(pairs) and len(data) == len(pairs) == 10
  assert {name: column.tolist() for name, column in data.tally().items()} == {
    "games": [7, 9, 4],
    "wins": [4, 2, 1],
    "losses": [2, 4, 1],
    "ties": [1, 3, 2],
  }
  half = Comparisons.from_matrix([[0, 0.5], [1.5, 0]])
  assert half.items == (0, 1) and half.total_weight == 2


FRAME = dict(
  home=np.array(["x", "y", "z", "x"], object),
  away=np.array(["y", "z", "x", "z"], object),
  result=np.array(["H", "A", "?", "D"], object),
  stake=np.array([1.0, 2.0, np.nan, 4.0]),
  length=np.array([0.1, 0.2, np.nan, -0.4]),
  rater=np.array([7, 8, 9, 7]),
  neutral=np.array([False, True, False, False]),
)
MEANING = {"H": "a", "A": "b", "D": "tie", "?": "drop"}


@pytest.mark.parametrize("make", [dict, pd.DataFrame, pa.table], ids=["mapping", "pandas", "arrow"])
def test_a_table(make):
  data = Comparisons.from_frame(
    make(FRAME),
    "home",
    "away",
    "result",
    MEANING,
    weight="stake",
    cluster="rater",
    covariates=["length"],
    neutral="neutral",
  )
  assert rows(data) == {("x", "y", "win"): 1, ("z", "y", "win"): 2, ("x", "z", "tie"): 4}
  assert data.home is not None and data.home.tolist() == [1, 0, 1]
  assert data.cluster is not None and data.cluster.tolist() == [0, 1, 0]
  assert data.covariates is not None and data.covariates.tolist() == [[0.1], [0.2], [-0.4]]
  assert data.covariate_names == ("length",)


@pytest.mark.parametrize(
  "outcomes", [[1.0, 0.5, 0.0], [True, False, True], [1, -1, 0], pd.Categorical(["a", "b", "c"])]
)
def test_outcomes_of_any_type(outcomes):
  known = dict.fromkeys(list(outcomes), "drop")
  known[next(iter(outcomes))] = "a"
  frame = pd.DataFrame(dict(a=["x", "y", "z"], b=["y", "z", "x"], o=outcomes))
  assert rows(Comparisons.from_frame(frame, "a", "b", "o", known))[("x", "y", "win")] == 1


def test_rankings_become_all_their_pairs():
  data = Comparisons.from_rankings([["a", "b", "c"], ["c", "a"]], weight=[2, 1])
  expected = {("a", "b", "win"): 2, ("a", "c", "win"): 2, ("b", "c", "win"): 2, ("c", "a", "win"): 1}
  assert rows(data) == expected
  assert data.cluster is not None and data.cluster.tolist() == [0, 0, 0, 1]
  assert data.orderings is not None and data.orderings.tolist() == [[0, 1, 2], [2, 0, -1]]
  assert rows(Comparisons.from_rankings(iter([("a", "b", "c")]))) == dict.fromkeys(list(expected)[:3], 1)


def test_restricting_keeps_what_belongs_to_a_row():
  data = Comparisons.from_pairs(
    [0, 1, 2, 0],
    [1, 2, 0, 2],
    weight=[1, 2, 3, 4],
    covariates=[0.1, 0.2, 0.3, 0.4],
    cluster=[5, 6, 7, 8],
    home=[1, 0, -1, 1],
  ).restricted(np.array([0, 2]))
  assert data.items == (0, 2)
  assert rows(data) == {(2, 0, "win"): 3, (0, 2, "win"): 4}
  assert data.covariates is not None and data.covariates.ravel().tolist() == [0.3, 0.4]
  assert data.home is not None and data.home.tolist() == [-1, 1]
  assert data.cluster is not None and data.cluster.tolist() == [2, 3]


def frame(**columns):
  """A table of which row 1 is dropped, so that row numbers must be those of the table."""
  base = dict(a=["x", "q", "y", "z"], b=["y", "q", "z", "x"], o=["w", "-", "w", "l"], w=[1.0, -1, 1, 1], n=[0, 9, 0, 1])
  made = pd.DataFrame(base | columns)
  return Comparisons.from_frame(
    made, "a", "b", "o", {"w": "a", "l": "b", "-": "drop"}, weight="w", neutral="n", covariates=["w"], items="xyz"
  )


BAD = {
  r"row 3: column 'o' holds 'draw', which outcome_map does not know \('w', 'l', '-'\)": lambda: frame(
    o=["w", "-", "w", "draw"]
  ),
  r"row 2: a value of column 'o' is missing": lambda: frame(o=["w", "-", None, "l"]),
  r"row 2: a value of column 'a' or 'b' is missing": lambda: frame(a=["x", "q", None, "z"]),
  r"row 3: 'p' is not among the items given": lambda: frame(b=["y", "q", "z", "p"]),
  r"row 2: 'y' is compared with itself": lambda: frame(b=["y", "q", "y", "x"]),
  r"row 2: weight is -2.0": lambda: frame(w=[1.0, 1, -2, 1]),
  r"row 3: column 'n' is 0.5; it takes true and false": lambda: frame(n=[0, 0, 0, 0.5]),
  r"there is no column 'c'; there are 'a', 'b'": lambda: Comparisons.from_frame(
    dict(a=["x"], b=["y"]), "a", "c", "b", {"y": "a"}
  ),
  r"outcome_map\['w'\] is 'A'; it takes 'a', 'b', 'tie' and 'drop'": lambda: Comparisons.from_frame(
    dict(a=["x"], b=["y"], o=["w"]), "a", "b", "o", {"w": "A"}
  ),
  r"labels must be all strings or all integers, but these are int, str": lambda: Comparisons.from_pairs(
    ["a", 1], ["b", "c"]
  ),
  r"all strings or all integers, but these are int, str$": lambda: Comparisons.from_pairs(["a", "b"], [1, 2]),
  r"row 1: a label is missing": lambda: Comparisons.from_pairs(["a", None], ["b", "c"]),
  r"shapes \(2,\), \(1,\); they must be equal": lambda: Comparisons.from_pairs([1, 2], [3]),
  r"row 1: 2 is compared with itself": lambda: Comparisons.from_pairs([1, 2], [2, 2]),
  r"there are no comparisons": lambda: Comparisons.from_pairs([], []),
  r"items holds a label twice": lambda: Comparisons.from_pairs([1], [2], items=[1, 2, 2]),
  r"row 0: tie is 'False'": lambda: Comparisons.from_pairs([1], [2], tie=["False"]),
  r"tie has shape \(1,\), but there are 2 comparisons": lambda: Comparisons.from_pairs([1, 2], [2, 1], tie=[True]),
  r"row 1: weight is nan": lambda: Comparisons.from_pairs([1, 2], [2, 1], weight=[1, np.nan]),
  r"all weights are 0": lambda: Comparisons.from_pairs([1, 2], [2, 1], weight=[0, 0]),
  r"weight must hold numbers": lambda: Comparisons.from_pairs([1], [2], weight=["heavy"]),
  r"row 0: covariate 'length' is inf": lambda: Comparisons.from_pairs([1], [2], covariates=dict(length=[np.inf])),
  r"covariates have shape \(2, 1\), but there are 1 comp": lambda: Comparisons.from_pairs([1], [2], covariates=[1, 2]),
  r"home\[0\] is 2; it takes 1, -1 and 0": lambda: Comparisons.from_pairs([1], [2], home=[2]),
  r"wins has shape \(2, 3\); it must be square": lambda: Comparisons.from_matrix(np.zeros((2, 3))),
  r"wins\[1, 1\] is 4, but no item is compared": lambda: Comparisons.from_matrix([[0, 1], [1, 4]]),
  r"wins must hold numbers of at least 0": lambda: Comparisons.from_matrix([[0, -1], [1, 0]]),
  r"ties must be symmetric": lambda: Comparisons.from_matrix([[0, 1], [1, 0]], [[0, 1], [2, 0]]),
  r"3 items for a 2 x 2 matrix": lambda: Comparisons.from_matrix([[0, 1], [1, 0]], items="abc"),
  r"items holds a label twice$": lambda: Comparisons.from_matrix([[0, 1], [1, 0]], items="aa"),
  r"there are no rankings": lambda: Comparisons.from_rankings([]),
  r"orderings\[1\] has 1 item; a ranking needs two or more": lambda: Comparisons.from_rankings([[1, 2], [1]]),
  r"orderings\[1\] names an item twice": lambda: Comparisons.from_rankings([[1, 2], [1, 2, 1]]),
  r"row 1: 'd' is not among the items": lambda: Comparisons.from_rankings(["abc", "cd"], items="abc"),
  r"weight has shape \(1,\), but there are 2 rankings": lambda: Comparisons.from_rankings(["ab", "ba"], weight=[1]),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_read_is_named(message):
  with pytest.raises(DataError, match=message):
    BAD[message]()


@pytest.mark.parametrize("unit", [1.0, 1e300, 1e-300])
def test_standardised_covariates_have_a_mean_square_of_one(unit):
  x = np.array([[3.0, 0.0], [-4.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
  data = Comparisons.from_pairs(
    [0, 1, 0, 1], [1, 0, 1, 0], weight=[1, 1, 3, 1], covariates=dict(a=unit * x[:, 0], b=x[:, 1])
  )
  found, scales = data.standardised()
  assert scales == pytest.approx(dict(a=unit * (50 / 6) ** 0.5, b=1.0))
  assert found.covariates is not None
  np.testing.assert_allclose(found.covariates, x / [(50 / 6) ** 0.5, 1], rtol=1e-12)
  plain = Comparisons.from_pairs([0], [1])
  assert plain.standardised() == (plain, {})
