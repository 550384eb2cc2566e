"""Files in every kind and in every way damaged; hub layouts from folders on disk."""

import gzip
import io
import json
from typing import cast

import pyarrow
import pytest
from pyarrow import parquet

from dpojax.config.schema import DataSettings
from dpojax.data.dataset import load_dataset
from dpojax.data.sources import _check_schema, file_rows, file_source, hub_source, memory_rows
from dpojax.data.templates import template_source
from dpojax.errors import ConfigError, DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers

ROWS = [{"prompt": f"hello {i}", "chosen": " yes", "rejected": " no"} for i in range(5)]


def as_jsonl(rows) -> bytes:
  return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows) -> bytes:
  return ("prompt,chosen,rejected\n" + "".join(f"{r['prompt']},{r['chosen']},{r['rejected']}\n" for r in rows)).encode()


def as_parquet(rows) -> bytes:
  import io

  import pyarrow
  from pyarrow import parquet

  stream = io.BytesIO()
  parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
  return stream.getvalue()


KINDS = {
  "jsonl": as_jsonl,
  "json": lambda rows: json.dumps(rows).encode(),
  "csv": as_csv,
  "parquet": as_parquet,
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_the_same_rows(tmp_path, kind, packed):
  file = tmp_path / f"my.pairs.{kind}{'.gz' if packed else ''}"
  content = KINDS[kind](ROWS)
  file.write_bytes(gzip.compress(content, mtime=0) if packed else content)
  rows = list(file_rows(str(file)))
  assert [dict(row.values) for row in rows] == ROWS
  assert not any(row.fault for row in rows)
  first_line = {"jsonl": 1, "csv": 2}.get(kind)
  assert rows[0].where == (f"{file}:{first_line}" if first_line else f"{file}[0]")
  assert [row.where for row in file_rows(str(file), limit=2)] == [row.where for row in rows[:2]]


def faults(file):
  return [(row.where.removeprefix(f"{file}:"), row.fault) for row in file_rows(str(file)) if row.fault]


def test_each_bad_line_is_told_with_its_number_and_the_rest_is_read(tmp_path):
  file = tmp_path / "bad.jsonl"
  good = as_jsonl(ROWS[:1])
  file.write_bytes(good + b'{"prompt": "x"\n\n' + b"[1, 2]\n" + b'{"prompt": "\xff"}\n' + b"null\n" + good + b'{"a": ')
  assert len([row for row in file_rows(str(file)) if not row.fault]) == 2
  found = faults(file)
  assert [line for line, _ in found] == ["2", "4", "5", "6", "8"]  # the empty line 3 is no row
  assert found[0][1].startswith("not JSON: Expecting ',' delimiter")
  assert found[1][1] == "holds a list, not an object with columns"
  assert found[2][1].startswith("not UTF-8: 'utf-8' codec can't decode byte 0xff")
  assert found[3][1] == "holds a NoneType, not an object with columns"
  assert found[4][1].startswith("not JSON: Expecting value")


def test_a_byte_order_mark_and_deep_nesting(tmp_path):
  file = tmp_path / "a.jsonl"
  file.write_bytes(b"\xef\xbb\xbf" + as_jsonl(ROWS[:1]) + b"[" * 200_000 + b"\n")
  rows = list(file_rows(str(file)))
  assert dict(rows[0].values) == ROWS[0]
  assert rows[1].fault.startswith("not JSON: ")


def test_csv_rows_of_a_wrong_length_and_fields_over_lines(tmp_path):
  file = tmp_path / "a.csv"
  file.write_text('prompt,chosen,rejected\n"two\nlines",b,c\na,b\n"x",y,z\n')
  rows = list(file_rows(str(file)))
  assert [row.where.rpartition(":")[2] for row in rows] == ["2", "4", "5"]
  assert rows[0].values["prompt"] == "two\nlines"
  assert rows[1].fault == "has 2 fields, but the header names 3"


def test_lines_of_json_under_the_name_json(tmp_path):
  file = tmp_path / "a.json"
  file.write_bytes(as_jsonl(ROWS))
  assert [dict(row.values) for row in file_rows(str(file))] == ROWS


def test_a_column_that_is_there_twice_is_refused_in_every_kind_of_file(tmp_path):
  """The last of two would win without a word, and train on the wrong column."""
  columns = [pyarrow.array(["a"]), pyarrow.array(["b"]), pyarrow.array(["c"])]
  stream = io.BytesIO()
  parquet.write_table(pyarrow.Table.from_arrays(columns, names=["prompt", "chosen", "chosen"]), stream)
  whole = {
    "rows.csv": b"prompt,chosen,rejected,chosen\nq,a,b,c\n",
    "rows.json": b'[{"prompt": "a", "chosen": "b", "chosen": "c"}]',
    "rows.parquet": stream.getvalue(),
  }
  for name, content in whole.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*'chosen'"):
      list(file_rows(str(tmp_path / name)))
  (tmp_path / "rows.jsonl").write_bytes(
    b'{"text": "a", "text": "b"}\n{"text": "c"}\n{"m": [{"role": "a", "role": "b"}]}'
  )
  rows = list(file_rows(str(tmp_path / "rows.jsonl")))
  assert [row.fault for row in rows] == ["it has 'text' twice", "", "it has 'role' twice"]


def test_fields_of_objects_in_a_parquet_file_are_distinct_too(tmp_path):
  kind = pyarrow.list_(
    pyarrow.struct([pyarrow.field("role", pyarrow.string()), pyarrow.field("role", pyarrow.string())])
  )
  with pytest.raises(DataError, match=r"rows.parquet: two columns are called 'role'"):
    _check_schema(pyarrow.schema([("chosen", kind)]), "rows.parquet")


@pytest.mark.parametrize("path", ["~no_such_user/rows.jsonl", "a" * 300 + ".jsonl", "a\0b.jsonl"])
def test_a_path_that_cannot_be_is_named(path):
  with pytest.raises(DataError, match=r"data\.path takes a JSONL"):
    list(file_rows(path))
  assert file_source(path).identity() == ""


def test_rows_in_memory_that_are_no_objects():
  rows = list(memory_rows([{"text": "a"}, "b"]))
  assert (rows[1].where, rows[1].fault) == ("rows[1]", "is a str, not an object")


def wrong_file(tmp_path, name, content):
  file = tmp_path / name
  file.write_bytes(content)
  return file


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.txt", b"hello", "its name ends in .txt; wanted .jsonl, .json, .csv, .parquet or .gz"),
    ("data", b"hello", "its name ends in nothing; wanted .jsonl"),
    ("a.gz", gzip.compress(b"{}", mtime=0), "its name ends in .gz; wanted .jsonl"),
    ("a.jsonl.gz", b"{}\n", "damaged gzip file (Not a gzipped file (b'{}')); fetch or pack it again"),
    ("a.jsonl.gz", gzip.compress(as_jsonl(ROWS * 99), mtime=0)[:-30], "damaged gzip file ("),
    ("a.json", b"[1, 2", "not JSON: Expecting ',' delimiter"),
    ("a.json", b'{"rows": []}', "holds a dict; a .json file must hold a list of rows"),
    ("a.csv", b'prompt,chosen\n"a,b\n', "not CSV in UTF-8: unexpected end of data"),
    ("a.csv", b"prompt,chosen\n\xff,b\n", "not CSV in UTF-8: 'utf-8' codec can't decode byte 0xff"),
    ("a.parquet", b"PAR1 not really", "not a Parquet file: "),
  ],
)
def test_a_file_wrong_as_a_whole_is_named(tmp_path, name, content, message):
  file = wrong_file(tmp_path, name, content)
  with pytest.raises(DataError) as caught:
    list(file_rows(str(file)))
  assert str(caught.value).startswith(str(file)) and message in str(caught.value)


@pytest.mark.parametrize("place", [10, 5000])
def test_damage_inside_a_gzip_file_is_an_error_not_an_end(tmp_path, place):
  packed = bytearray(gzip.compress(as_jsonl([{"text": f"{i * 7919}"} for i in range(5000)]), mtime=0))
  packed[place : place + 4] = b"\xff" * 4
  file = wrong_file(tmp_path, "a.jsonl.gz", bytes(packed))
  with pytest.raises(DataError, match="damaged gzip file"):
    list(file_rows(str(file)))


def test_a_missing_file_and_a_folder(tmp_path):
  with pytest.raises(DataError, match=r"/no/such\.jsonl: no such file; data\.path takes a JSONL, JSON, CSV or Parquet"):
    list(file_rows("/no/such.jsonl"))
  with pytest.raises(DataError, match="is a folder, not a file"):
    list(file_rows(str(tmp_path)))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (dict(source="world", name="complaint_desk"), "data.source=world: an environment's rows are made by the run"),
    (dict(source="file"), "data.source=file needs data.path"),
    (dict(source="hub"), "data.name is empty; name a data set of the hub, or give a local file as data.path"),
  ],
)
def test_settings_that_name_no_rows(chatml, settings, message):
  with pytest.raises(ConfigError) as caught:
    load_dataset(DataSettings(**settings), chatml, answers=Answers.PAIR, row_length=64)
  assert message in str(caught.value)


# --- layouts of the hub, each as a small folder that `datasets` reads as it would the repository


HH_ROW = {"chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no"}
SHP_ROW = {"history": "hi", "human_ref_A": "yes", "human_ref_B": "no", "labels": 1, "score_ratio": 2.0}
USER = {"content": "hi", "role": "user"}
UF_ROW = {
  "prompt": "hi",
  "chosen": [USER, {"content": "yes", "role": "assistant"}],
  "rejected": [USER, {"content": "no", "role": "assistant"}],
  "score_chosen": 8.0,
}
PKU_ROW = {"prompt": "hi", "response_0": "no", "response_1": "yes", "better_response_id": 1, "safer_response_id": 1}
NECTAR_ROW = {
  "prompt": "\n\nHuman: hi\n\nAssistant: ",
  "answers": [{"answer": "no", "model": "a", "rank": 2.0}, {"answer": "yes", "model": "b", "rank": 1.0}],
}

LAYOUTS = {
  "hh": (
    {"harmless-base/train.jsonl.gz": gzip.compress(as_jsonl([HH_ROW]), mtime=0), "helpful-base/train.jsonl.gz": b""},
    dict(subset="harmless-base"),
  ),
  "shp": ({"askculinary/train.json": as_jsonl([SHP_ROW])}, dict(subset="askculinary")),
  "ultrafeedback": (
    {
      "data/train_prefs-00000-of-00001.parquet": as_parquet([UF_ROW]),
      "README.md": b"---\nconfigs:\n- config_name: default\n  data_files:\n"
      b"  - split: train_prefs\n    path: data/train_prefs-*\n---\n",
    },
    dict(split="train_prefs"),
  ),
  "pku_safe_rlhf": ({"data/train.jsonl": as_jsonl([PKU_ROW])}, {}),
  "nectar": ({"data/train-00000-of-00001.parquet": as_parquet([NECTAR_ROW])}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_of_the_hub_is_read(hub, chatml, layout):
  files, options = LAYOUTS[layout]
  settings = DataSettings(name=hub(files), eval_fraction=0.0, **options)
  train, _ = load_dataset(settings, chatml, answers=Answers.PAIR, row_length=128)
  assert train.origin.startswith(f"{layout} ")
  assert [chatml.decode(answer) for answer in train[0].answers] == ["yes<|im_end|>", "no<|im_end|>"]
  assert train.where(0) == f"{settings.name}[{settings.split}][0]"


def test_an_evaluation_split_is_read_apart(hub, chatml):
  rows = [dict(HH_ROW, **{k: v.replace("hi", f"hi {i}") for k, v in HH_ROW.items()}) for i in range(4)]
  name = hub({"data/train.jsonl": as_jsonl(rows[:3]), "data/test.jsonl": as_jsonl(rows[2:])})
  train, held_out = load_dataset(
    DataSettings(name=name, eval_split="test"), chatml, answers=Answers.PAIR, row_length=128
  )
  assert (len(train), len(held_out)) == (2, 2)
  assert train.counts["dropped/held_out_prompt"] == 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(split="validation"), "data.split=validation of data.name="),
    (dict(subset="harmful"), "data.subset=harmful of data.name="),
  ],
)
def test_a_wrong_hub_option_is_named(hub, options, message):
  name = hub({"data/train.jsonl": as_jsonl([HH_ROW])})
  with pytest.raises(DataError) as caught:
    list(hub_source(name, **{"subset": "", "split": "train", "revision": "", **options}).rows)
  assert str(caught.value).startswith(message)


def test_a_data_set_that_cannot_be_fetched_or_read_is_named(hub):
  with pytest.raises(DataError, match=r"^data\.name=nobody/nothing: "):
    list(hub_source("nobody/nothing", subset="", split="train", revision="").rows)
  name = hub({"data/train.jsonl": b'{"a": 1}\n{"a": \n'})
  with pytest.raises(DataError, match=f"^data.name={name}: .*DatasetGenerationError"):
    list(hub_source(name, subset="", split="train", revision="").rows)


def test_nulls_that_a_table_fills_in_are_no_arguments(tmp_path):
  """Two calls with arguments of their own become one Arrow type; each row is read as it was written."""
  call = lambda arguments: [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]  # noqa: E731
  rows = [{"chosen": call({"city": "Rome"}), "note": None}, {"chosen": call({"day": 3, "hours": [1, 2]}), "note": "x"}]
  (tmp_path / "rows.parquet").write_bytes(as_parquet(rows))
  assert [row.values for row in file_rows(str(tmp_path / "rows.parquet"))] == rows


@pytest.mark.parametrize("setting", ["data.path", "data.template"])
def test_a_user_who_is_not_known_is_a_path_that_is_not_there(setting):
  with pytest.raises(DataError, match=r"~nobody_here/x\.jsonl"):
    if setting == "data.path":
      list(file_rows("~nobody_here/x.jsonl"))
    else:
      template_source("~nobody_here/x.jsonl", cast(Tokenizer, None))
