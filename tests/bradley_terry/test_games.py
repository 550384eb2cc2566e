"""The short way in: games as a list; and that NumPy and SciPy are all that it takes."""

import collections
import subprocess
import sys

import numpy as np
import pytest

from dpojax.bradley_terry import Comparisons, fit, plackett_luce, similar_labels
from dpojax.errors import DataError

GAMES = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "c"), ("a", "b"), ("b", "a")]


def test_a_list_of_games_is_their_comparisons():
  one = fit(GAMES)
  other = fit(Comparisons.from_pairs(*zip(*GAMES, strict=True)))
  np.testing.assert_array_equal(one.log_strength, other.log_strength)
  assert one.items == ("a", "b", "c")
  # The estimate's equations: every item wins as often as it is expected to.
  for item in one.items:
    met = [(set(game) - {item}).pop() for game in GAMES if item in game]
    assert sum(one.probability(item, rival) for rival in met) == pytest.approx(sum(w == item for w, _ in GAMES))


def test_counted_games_are_as_many():
  counted = fit(collections.Counter(GAMES))
  np.testing.assert_allclose(counted.log_strength, fit(GAMES).log_strength, atol=1e-12)
  assert len(counted.data) == len(GAMES) and counted.data.weight is None
  halves = fit({game: number / 2 for game, number in collections.Counter(GAMES).items()})
  np.testing.assert_allclose(halves.log_strength, counted.log_strength, atol=1e-9)
  assert halves.data.total_weight == len(GAMES) / 2


def test_ties_are_said_in_third_place():
  tied = [*GAMES, ("b", "c", "tie")]
  found = fit(tied, ties="half")
  both = fit({game: 1 for game in set(GAMES)} | {("a", "b"): 2, ("b", "c"): 1.5, ("c", "b"): 0.5})
  np.testing.assert_allclose(found.log_strength, both.log_strength, atol=1e-9)
  with pytest.raises(DataError, match="1 comparisons are ties"):
    fit(tied)


def test_arrays_and_numbers_are_games_too():
  games = np.array([[0, 1], [1, 2], [2, 0], [0, 2]])
  np.testing.assert_array_equal(fit(games).log_strength, fit(list(map(tuple, games.tolist()))).log_strength)


def test_lists_of_rankings():
  rankings = [("a", "b", "c"), ("b", "c", "a"), ("c", "a")]
  np.testing.assert_array_equal(
    plackett_luce(rankings).log_strength, plackett_luce(Comparisons.from_rankings(rankings)).log_strength
  )


@pytest.mark.parametrize(
  "games, message",
  [
    ([("a", "b"), ("a",)], r"games\[1\] is \('a',\); a game is \(winner, loser\) or"),
    ([("a", "b", "draw")], r"games\[0\] is \('a', 'b', 'draw'\); a game is"),
    (["ab", "ba"], r"games\[0\] is 'ab'; a game is"),
    ([3], r"games\[0\] is 3; a game is"),
    ({("a", "b"): -1}, "row 0: weight is -1.0"),
    ([], "there are no comparisons"),
  ],
)
def test_what_is_no_game_is_named(games, message):
  with pytest.raises(DataError, match=message):
    fit(games)


BARE = """
import sys

class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in {"jax", "jaxlib", "flax", "datasets", "pyarrow", "matplotlib", "pandas"}:
      raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
from dpojax import bradley_terry as bt

found = bt.fit([("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")] * 9 + [("b", "a", "tie")] * 5, ties="davidson")
board = bt.leaderboard(found, resampled=bt.bootstrap(found, 20))
ranked = bt.plackett_luce([("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c")])
pairs = bt.suggest(found, 2)
print([row["item"] for row in board], len(bt.leaderboard(found).text(40)) > 0, len(pairs), ranked.items)
outside = {"numpy", "scipy"} | set(sys.stdlib_module_names)
loaded = {m.partition(".")[0] for m, x in sys.modules.items() if getattr(x, "__file__", None) and "site-packages" in x.__file__}
print(sorted(loaded - outside))
"""


@pytest.mark.slow
def test_numpy_and_scipy_suffice():
  """In a process where all else that is large cannot be imported; what else is loaded comes with the interpreter."""
  run = subprocess.run([sys.executable, "-I", "-c", BARE], capture_output=True, text=True)
  assert run.returncode == 0, run.stderr
  ranked, others = run.stdout.splitlines()
  assert ranked == "['a', 'b', 'c'] True 2 ('a', 'b', 'c')"
  assert not {"jax", "flax", "ml_collections", "optax", "orbax"} & set(others.strip("[]").replace("'", "").split(", "))


@pytest.mark.parametrize(
  "names, groups",
  [
    (["gpt-4", "GPT-4", "claude"], [("GPT-4", "gpt-4")]),
    (["gpt 4", "gpt\u00a04", "gpt4"], [("gpt 4", "gpt4", "gpt\u00a04")]),
    (["café", "cafe\u0301"], [("cafe\u0301", "café")]),  # NFC and NFD
    (["\uff21\uff42c", "ABC"], [("ABC", "\uff21\uff42c")]),  # full width
    (["straße", "STRASSE"], [("STRASSE", "straße")]),
    (["a\u200bb", "ab"], [("ab", "a\u200bb")]),  # zero width
    (["gpt-4", "gpt-4o", "gpt_4", "\u043e1", "o1"], []),  # a Cyrillic letter is another letter
    ([1, 2, 10], []),
  ],
)
def test_names_that_look_alike(names, groups):
  assert list(similar_labels(names)) == groups
