"""Counting a file block by block, against counting its rows one by one in plain Python."""

import collections
import csv
import gzip
import json
import pathlib
import random
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dpojax.bradley_terry import Comparisons, blocks, fit, read_comparisons, standard_errors, stream
from dpojax.errors import DataError

TEXTS = ["alpha", "b,eta", "gam\nma", 'de"l', "é", "epsilon "]
MEANING = {"A": "a", "B": "b", "T": "tie", "bad": "drop"}
OUTCOME = {"a": 2, "b": 0, "tie": 1}
FORMATS = ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "ndjson", "parquet"]


def some_rows(number=700, labels=TEXTS, seed=0):
  draw = random.Random(seed)
  rows = []
  for _ in range(number):
    x, y = draw.sample(labels, 2)
    row = dict(prompt=draw.choice(['"hi",\nsaid\the', ""]), x=x, y=y, o=draw.choice([*MEANING, "A"]))
    rows.append(row | dict(n=draw.random() < 0.3, w=draw.choice([0, 1, 2.5, 0.125])))
  return rows


def write(path, rows):
  """The rows in the format that the name says."""
  if path.suffix == ".parquet":
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=90)
    return path
  opener = gzip.open if path.suffix == ".gz" else open
  with opener(path, "wt", encoding="utf-8", newline="") as file:
    if ".json" in path.name or ".ndjson" in path.name:
      file.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
      writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if "tsv" in path.name else ",")
      writer.writeheader()
      writer.writerows(rows)
  return path


def counted(rows, home=False, meaning=MEANING):
  """{(first label, second label, outcome, home): [count, sum of weights]}, row by row."""
  cells = collections.defaultdict(lambda: [0, Fraction(0)])
  for row in rows:
    if meaning[row["o"]] == "drop":
      continue
    a, b, outcome, side = row["x"], row["y"], OUTCOME[meaning[row["o"]]], int(not row["n"])
    if not home and a > b:
      a, b, outcome = b, a, 2 - outcome
    cell = cells[a, b, outcome, side if home else None]
    cell[0] += 1
    cell[1] += Fraction(row["w"])
  return cells


def as_cells(data):
  """The same of comparisons."""
  found = {}
  for k in range(len(data.first)):
    side = None if data.home is None else int(data.home[k])
    key = (data.items[data.first[k]], data.items[data.second[k]], int(data.outcome[k]), side)
    assert key not in found
    found[key] = [int(data.count[k]), float(data.row_weight[k])]
  return found


@pytest.fixture(params=["one block", "many blocks"])
def block_size(request, monkeypatch):
  if request.param == "many blocks":
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300)
    monkeypatch.setattr(stream, "MERGE", 20)


@pytest.mark.slow
@pytest.mark.parametrize("home", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_counts_are_those_of_the_rows(form, home, block_size, tmp_path):
  rows = some_rows()
  path = write(tmp_path / f"games.{form}", rows)
  data = read_comparisons(path, "x", "y", "o", outcome_map=MEANING, weight="w", neutral="n" if home else None)
  expected = counted(rows, home)
  found = as_cells(data)
  assert data.items == tuple(sorted(TEXTS))
  assert found.keys() == expected.keys()
  for key, (count, weight) in expected.items():
    assert found[key][0] == count
    assert found[key][1] == pytest.approx(float(weight), rel=1e-12)
  assert len(data) == sum(row["o"] != "bad" for row in rows)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_whole_numbers_are_labels(form, block_size, tmp_path):
  """Sorted as numbers, not as texts; large ones stay exact."""
  labels = [2, 10, -3, 2**60, 2**60 + 1]
  rows = some_rows(200, labels)
  data = read_comparisons(write(tmp_path / f"g.{form}", rows), "x", "y", "o", outcome_map=MEANING)
  assert data.items == (-3, 2, 10, 2**60, 2**60 + 1)
  expected = {key: count for key, (count, _) in counted(rows).items()}
  assert {key: count for key, (count, _) in as_cells(data).items()} == expected


def test_numbers_written_otherwise_stay_texts(tmp_path):
  path = tmp_path / "g.csv"
  path.write_text("x,y,o\n01,1,a\n1,NA,b\n")
  assert read_comparisons(path, "x", "y", "o").items == ("01", "1", "NA")


def test_blocks_of_any_size_give_the_same_arrays(tmp_path, monkeypatch):
  path = write(tmp_path / "g.csv", some_rows(300))
  results = []
  for size in (200, 333, 1000, 1 << 20):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    results.append(read_comparisons(path, "x", "y", "o", outcome_map=MEANING))
  for name in ("first", "second", "outcome", "count"):
    for other in results[1:]:
      np.testing.assert_array_equal(getattr(results[0], name), getattr(other, name))
  assert results[0].items == results[-1].items
  assert results[0].weight is None and results[0].home is None


def test_many_items_are_counted_by_sorting(tmp_path, monkeypatch):
  """Where a table of all pairs would be larger than the block; cells are merged again and again."""
  monkeypatch.setattr(blocks, "BLOCK_ROWS", 500)
  monkeypatch.setattr(stream, "MERGE", 100)
  rows = some_rows(6000, list(range(300)))
  path = write(tmp_path / "g.parquet", rows)
  data = read_comparisons(path, "x", "y", "o", outcome_map=MEANING, weight="w")
  expected = {key: [count, float(weight)] for key, (count, weight) in counted(rows).items()}
  assert as_cells(data) == {key: pytest.approx(value, rel=1e-12) for key, value in expected.items()}


def test_a_fit_is_that_of_the_frame(tmp_path):
  rows = some_rows(500)
  columns = {name: [row[name] for row in rows] for name in rows[0]}
  whole = Comparisons.from_frame(columns, "x", "y", "o", MEANING, neutral="n")
  read = read_comparisons(write(tmp_path / "g.jsonl", rows), "x", "y", "o", outcome_map=MEANING, neutral="n")
  one, other = (fit(data, ties="davidson", home=True) for data in (whole, read))
  np.testing.assert_allclose(one.log_strength, other.log_strength, atol=1e-10)
  np.testing.assert_allclose(standard_errors(one, "sandwich"), standard_errors(other, "sandwich"), rtol=1e-9)
  assert one.home == pytest.approx(other.home, abs=1e-10)
  assert len(whole) == len(read)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_winner_and_loser(form, block_size, tmp_path):
  rows = [dict(w=x, l=y, t=t) for x, y, t in [("a", "b", False), ("b", "a", True), ("c", "a", False)] * 60]
  data = read_comparisons(write(tmp_path / f"g.{form}", rows), winner="w", loser="l", tie="t")
  cells = {key: count for key, (count, _) in as_cells(data).items()}
  assert cells == {("a", "b", 2, None): 60, ("a", "b", 1, None): 60, ("a", "c", 0, None): 60}


@pytest.mark.parametrize(
  "labels, outcome",
  [
    (["a", "model_a", "1", "1.0", "win", "first", "home", "1-0"], 2),
    (["b", "model_b", "0", "0.0", "loss", "second", "away", "0-1"], 0),
    (["tie", "tie (bothbad)", "bothbad", "draw", "0.5", "1/2-1/2"], 1),
  ],
)
def test_usual_outcomes_need_no_map(labels, outcome, tmp_path):
  path = write(tmp_path / "g.csv", [dict(x="p", y="q", o=label) for label in labels])
  data = read_comparisons(path, "x", "y", "o")
  assert data.outcome.tolist() == [outcome]
  assert data.count.tolist() == [len(labels)]


@pytest.mark.parametrize("values", [[1, 0, 0.5, 1.0], [1, "0", "tie", True]])
def test_outcomes_may_be_numbers_of_any_kind(values, tmp_path):
  rows = [dict(x="p", y="q", o=value) for value in values]
  meaning = {1: "a", "0": "b", np.float64(0.5): "tie", "tie": "tie", "true": "a"}
  data = read_comparisons(write(tmp_path / "g.jsonl", rows), "x", "y", "o", outcome_map=meaning)
  assert dict(zip(data.outcome.tolist(), data.count.tolist(), strict=True)) == {2: 2, 1: 1, 0: 1}


def test_items_given_keep_their_order_and_those_without_games(tmp_path):
  path = tmp_path / "g.csv"
  path.write_text("x,y,o\n7,3,a\n3,7,a\n")
  data = read_comparisons(path, "x", "y", "o", items=[9, 7, 3])
  assert data.items == (9, 7, 3)
  assert as_cells(data) == {(7, 3, 2, None): [1, 1.0], (7, 3, 0, None): [1, 1.0]}
  with pytest.raises(DataError, match=r"g\.csv, row 1: column 'x' holds '7', no label among the items given"):
    read_comparisons(path, "x", "y", "o", items=[9, 3])


def test_items_only_in_dropped_rows_are_not_there(tmp_path):
  rows = [dict(x="p", y="q", o="A"), dict(x="z", y=None, o="bad")]
  for form in ("csv", "jsonl", "parquet"):
    path = write(tmp_path / f"g.{form}", rows)
    assert read_comparisons(path, "x", "y", "o", outcome_map=MEANING).items == ("p", "q")


def test_progress_counts_rows_and_ends_with_the_file(tmp_path, monkeypatch):
  monkeypatch.setattr(blocks, "BLOCK_ROWS", 100)
  monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
  rows = some_rows(450)
  for form in ("csv", "jsonl", "parquet"):
    seen = []
    read_comparisons(write(tmp_path / f"g.{form}", rows), "x", "y", "o", outcome_map=MEANING, progress=seen.append)
    assert len(seen) > 3
    assert [now.rows for now in seen] == sorted(now.rows for now in seen)
    assert seen[-1].rows == 450
    assert seen[-1].dropped == sum(row["o"] == "bad" for row in rows)
    assert seen[-1].share == pytest.approx(1)


# --- what can be wrong


@pytest.fixture
def small_blocks(monkeypatch):
  monkeypatch.setattr(blocks, "BLOCK_ROWS", 50)
  monkeypatch.setattr(blocks, "BLOCK_BYTES", 400)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
  "column, value, message",
  [
    ("o", "C", r"row 301: column 'o' holds 'C', which is unknown; known are 'A', 'B', 'T', 'bad'; say .* outcome_map"),
    ("x", None, r"row 301: column 'x' is empty"),
    ("o", None, r"row 301: column 'o' is empty"),
    ("y", "alpha", r"row 301: 'alpha' is compared with itself"),
    ("w", -1, r"row 301: column 'w' holds '?-1(\.0)?'?; a weight is a number of at least 0"),
    ("w", None, r"row 301: column 'w' is empty"),
  ],
)
def test_a_wrong_value_is_named_with_its_row(form, column, value, message, small_blocks, tmp_path):
  rows = some_rows(400)
  rows[300] |= dict(x="alpha", y="é", o="A") | {column: value}
  path = write(tmp_path / f"g.{form}", rows)
  with pytest.raises(DataError, match=rf"g\.{form}, {message}"):
    read_comparisons(path, "x", "y", "o", outcome_map=MEANING, weight="w")


@pytest.mark.parametrize("form", FORMATS)
def test_a_missing_column(form, tmp_path):
  path = write(tmp_path / f"g.{form}", some_rows(5))
  with pytest.raises(DataError, match=r"no column 'z'; there are 'prompt', 'x', 'y', 'o', 'n', 'w'"):
    read_comparisons(path, "x", "z", "o")


def test_a_column_twice(tmp_path):
  path = tmp_path / "g.csv"
  path.write_text("x,y,o,x\np,q,a,r\n")
  with pytest.raises(DataError, match="2 columns are called 'x'"):
    read_comparisons(path, "x", "y", "o")


@pytest.mark.parametrize("fields", ["p,q", "p,q,a,b"])
def test_a_ragged_row(fields, small_blocks, tmp_path):
  path = tmp_path / "g.csv"
  path.write_text("x,y,o\n" + "p,q,a\n" * 500 + fields + "\n" + "p,q,a\n" * 500)
  with pytest.raises(DataError, match=rf"g\.csv, row 501: it has {fields.count(',') + 1} fields, but the header has 3"):
    read_comparisons(path, "x", "y", "o")


@pytest.mark.parametrize(
  "line, message",
  [
    ('{"x": "p", "y": ', "row 201: not JSON: "),
    ('["p", "q", "a"]', "row 201: it holds a list, not an object"),
    ('{"x": "p", "o": "a"}', "row 201: there is no column 'y'"),
    ('{"x": ["p"], "y": "q", "o": "a"}', "row 201: column 'x' holds a list"),
    ('{"x": 1.5, "y": "q", "o": "a"}', "row 201: column 'x' holds 1.5, no label; they are texts or whole numbers"),
    ('{"x": 5, "y": "q", "o": "a"}', "labels are partly texts, partly numbers"),
  ],
)
def test_a_broken_json_line(line, message, small_blocks, tmp_path):
  path = tmp_path / "g.jsonl"
  path.write_text('{"x": "p", "y": "q", "o": "a"}\n' * 200 + line + "\n" + '{"x": "p", "y": "q", "o": "a"}\n' * 20)
  with pytest.raises(DataError, match=message):
    read_comparisons(path, "x", "y", "o")


def test_json_with_empty_lines_a_mark_and_no_last_newline(tmp_path):
  path = tmp_path / "g.jsonl"
  row = b'{"x": "p", "y": "q", "o": "a"}'
  path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n" + row + b"\n\n" + row)
  assert len(read_comparisons(path, "x", "y", "o")) == 3


@pytest.mark.parametrize("form", ["csv.gz", "jsonl.gz"])
@pytest.mark.parametrize("keep", [0.6, 0.999])
def test_a_truncated_gzip_file(form, keep, small_blocks, tmp_path):
  path = write(tmp_path / f"g.{form}", some_rows(900))
  whole = path.read_bytes()
  path.write_bytes(whole[: int(keep * len(whole))])
  with pytest.raises(DataError, match=rf"g\.{form}(, after row \d+)?: .*[Tt]runcated"):
    read_comparisons(path, "x", "y", "o", outcome_map=MEANING)


def test_a_damaged_parquet_file(tmp_path):
  path = write(tmp_path / "g.parquet", some_rows(900))
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(DataError, match="not a Parquet file, or a damaged one"):
    read_comparisons(path, "x", "y", "o")


def test_text_that_is_not_utf8(tmp_path):
  path = tmp_path / "g.csv"
  path.write_bytes(b"x,y,o\np,q,a\n\xe9,q,a\n")
  with pytest.raises(DataError, match=r"UTF-?8"):
    read_comparisons(path, "x", "y", "o")


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("g.txt", "x", "its name must end in .csv"),
    ("g.parquet.gz", "x", "its name must end in .csv"),
    ("g.csv", "", "Empty CSV file"),
    ("g.csv", "x,y,o\n", "it has no rows"),
    ("g.jsonl", "\n\n", "it has no rows"),
    ("g.csv", "x,y,o\np,q,bad\n", "all 1 rows are to be dropped"),
  ],
)
def test_a_file_without_comparisons(name, content, message, tmp_path):
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(DataError, match=message):
    read_comparisons(path, "x", "y", "o", outcome_map=MEANING)


def test_no_file(tmp_path):
  with pytest.raises(DataError, match="there is no such file"):
    read_comparisons(tmp_path / "none.csv", "x", "y", "o")
  with pytest.raises(DataError, match="it is a folder"):
    read_comparisons(tmp_path, "x", "y", "o")


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(a="x", b="y"), "name the columns a, b and outcome, or winner and loser"),
    (dict(winner="x"), "winner and loser come together"),
    (dict(winner="x", loser="y", outcome="o"), "winner and loser come together"),
    (dict(winner="x", loser="y", home=True), "home and neutral need the columns a and b"),
    (dict(a="x", b="y", outcome="o", outcome_map={"A": "first"}), "'A'.* is 'first'; it takes 'a', 'b'"),
    (dict(a="x", b="y", outcome="o", outcome_map={1: "a", "1": "b"}), "says both 'a' and 'b' of '1'"),
    (dict(a="x", b="y", outcome="o", items=["p", "p"]), "items holds a label twice"),
  ],
)
def test_options_that_do_not_fit(options, message, tmp_path):
  path = tmp_path / "g.csv"
  path.write_text("x,y,o\np,q,a\n")
  with pytest.raises(DataError, match=message):
    read_comparisons(path, **options)


# --- memory


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_rows(tmp_path):
  """Peak memory of a process that reads ten times the rows, 43 MB more of them in memory as columns."""
  draw = np.random.default_rng(0)
  peaks = []
  for rows in (300_000, 3_000_000):
    a = draw.integers(0, 100, rows, dtype=np.int32)
    table = pa.table(dict(x=a, y=(a + draw.integers(1, 100, rows, dtype=np.int32)) % 100, o=draw.integers(0, 2, rows)))
    parquet.write_table(table, tmp_path / "g.parquet", row_group_size=500_000)
    code = (
      "import re, sys; from dpojax.bradley_terry import blocks, read_comparisons; blocks.BLOCK_ROWS = 1 << 16;"
      "data = read_comparisons(sys.argv[1], 'x', 'y', 'o');"
      "print(len(data), re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    out = subprocess.run(
      [sys.executable, "-c", code, str(tmp_path / "g.parquet")], check=True, stdout=subprocess.PIPE, text=True
    )
    number, peak = map(int, out.stdout.split())
    assert number == rows
    peaks.append(peak / 1024)
  assert peaks[1] - peaks[0] < 30
