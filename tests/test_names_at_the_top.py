"""What type checkers read in `dpojax/__init__.py` is what Python loads by it."""

import ast
import pathlib

import dpojax


def test_editors_see_every_name_where_python_finds_it():
  tree = ast.parse(pathlib.Path(dpojax.__file__).read_text(encoding="utf-8"))
  (block,) = [node for node in tree.body if isinstance(node, ast.If)]
  seen = {}
  for node in block.body:
    assert isinstance(node, ast.ImportFrom)
    for name in node.names:
      assert name.asname == name.name  # else it is private to a type checker
      seen[name.name] = f"dpojax.{name.name}" if node.module == "dpojax" else node.module
  assert seen == dpojax._HOME
