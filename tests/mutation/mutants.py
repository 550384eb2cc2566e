"""Mutants of Python source: every small change of an expression that a typing error might be.

Docstrings, annotations, assertions and raised errors stay as they are.
"""

import ast
import copy
import dataclasses
from collections.abc import Iterator

SWAPS = [
  ("chosen", "rejected"),
  ("policy", "reference"),
  ("chosen_kl", "rejected_kl"),
  ("chosen_length", "rejected_length"),
  ("good", "bad"),
  ("won", "lost"),
  ("right", "swapped"),
  ("right", "wrong"),
  ("above", "below"),
  ("upper", "lower"),
  ("upper_mass", "lower_mass"),
  ("of_policy", "of_reference"),
  ("desirable_weight", "undesirable_weight"),
  ("i", "j"),
  ("sums", "lengths"),
  ("behaviour", "advantage"),
  ("old", "target"),
  ("old_value", "value_target"),
  ("rewards", "values"),
  ("following", "next_value"),
  ("tokens", "answers"),
  ("gamma", "lam"),
  ("kl", "target"),
  ("episodes", "horizon"),
]
OTHER_NAME = {a: b for a, b in SWAPS} | {b: a for a, b in reversed(SWAPS)}
OTHER_CALL = {
  "sum": "mean",
  "mean": "sum",
  "softplus": "sigmoid",
  "sigmoid": "softplus",
  "minimum": "maximum",
  "maximum": "minimum",
  "zeros_like": "ones_like",
  "ones_like": "zeros_like",
}
# A call f(x, ...) that may have been forgotten: x instead of it.
FORGOTTEN = {
  *("stop_gradient", "relu", "softplus", "sigmoid", "exp", "expm1", "log", "log1p", "abs", "sort", "argsort", "cumsum"),
  *("clip", "square", "min", "max", "reversed"),
  *("minus_margin", "per_token", "bounded_expm1", "diff", "triu", "minimum", "maximum", "broadcast_to"),
}
OPERATORS = {
  ast.Add: [ast.Sub],
  ast.Sub: [ast.Add],
  ast.Mult: [ast.Div],
  ast.Div: [ast.Mult],
  ast.FloorDiv: [ast.Mult],
  ast.BitAnd: [ast.BitOr],
  ast.BitOr: [ast.BitAnd],
  ast.Pow: [ast.Mult],
}
COMPARISONS = {
  ast.Gt: [ast.GtE, ast.Lt],
  ast.Lt: [ast.LtE, ast.Gt],
  ast.GtE: [ast.Gt, ast.Lt],
  ast.LtE: [ast.Lt, ast.Gt],
  ast.Eq: [ast.NotEq],
  ast.NotEq: [ast.Eq],
  ast.Is: [ast.IsNot],
  ast.IsNot: [ast.Is],
}


@dataclasses.dataclass(frozen=True)
class Mutant:
  """A changed module: where, what stood there, what stands there now, and the name of the function it is in."""

  line: int
  function: str
  before: str
  after: str
  source: str


def mutants(source: str) -> Iterator[Mutant]:
  """Every mutant of a module, each with one change; texts that come out the same are left out."""
  tree, seen = ast.parse(source), {ast.unparse(ast.parse(source))}
  for path, function in _places(tree):
    node = _at(tree, path)
    known = {n.id for n in ast.walk(_outermost(tree, path)) if isinstance(n, ast.Name)}
    known |= {n.arg for n in ast.walk(_outermost(tree, path)) if isinstance(n, ast.arg)}
    for other in _changes(node, known):
      changed = copy.deepcopy(tree)
      _put(changed, path, other)
      text = ast.unparse(ast.fix_missing_locations(changed))
      if text not in seen:
        seen.add(text)
        yield Mutant(node.lineno, function, ast.unparse(node), ast.unparse(other), text)


def _places(tree: ast.Module) -> Iterator[tuple[tuple, str]]:
  """(path, function) of every expression; a path is a sequence of (field, index or None)."""

  def walk(node, path, function):
    if isinstance(node, ast.expr):
      yield path, function
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      function = f"{function}.{node.name}" if function else node.name
    for field, value in ast.iter_fields(node):
      if field in ("annotation", "returns", "decorator_list", "ctx", "op", "ops"):
        continue
      for index, child in enumerate(value if isinstance(value, list) else [value]):
        skipped = isinstance(child, ast.Assert | ast.Raise | ast.Import | ast.ImportFrom | ast.Pass)
        text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if isinstance(child, ast.AST) and not skipped and not text:
          yield from walk(child, (*path, (field, index if isinstance(value, list) else None)), function)

  yield from walk(tree, (), "")


def _at(tree, path):
  for field, index in path:
    tree = getattr(tree, field) if index is None else getattr(tree, field)[index]
  return tree


def _outermost(tree, path) -> ast.AST:
  """The function or class of a module that a path leads into."""
  return _at(tree, path[:1])


def _put(tree, path, node) -> None:
  *parents, (field, index) = path
  parent = _at(tree, parents)
  if index is None:
    setattr(parent, field, node)
  else:
    getattr(parent, field)[index] = node


def _changes(node: ast.expr, known: set[str]) -> Iterator[ast.expr]:
  """What might stand in the place of an expression; `known` are the names that mean something there."""
  if isinstance(node, ast.BinOp):
    for other in OPERATORS.get(type(node.op), []):
      yield ast.BinOp(node.left, other(), node.right)
    yield node.left
    if not isinstance(node.op, ast.Pow):
      yield ast.UnaryOp(ast.USub(), node.right) if isinstance(node.op, ast.Sub) else node.right
  elif isinstance(node, ast.UnaryOp):
    yield node.operand
  elif isinstance(node, ast.Compare) and len(node.ops) == 1:
    for other in COMPARISONS.get(type(node.ops[0]), []):
      yield ast.Compare(node.left, [other()], node.comparators)
  elif isinstance(node, ast.IfExp):
    yield from (node.body, node.orelse)
  elif isinstance(node, ast.BoolOp):
    yield from node.values
  elif isinstance(node, ast.Constant):
    yield from (ast.Constant(value) for value in _constants(node.value))
  elif isinstance(node, ast.Name) and OTHER_NAME.get(node.id) in known and isinstance(node.ctx, ast.Load):
    yield ast.Name(OTHER_NAME[node.id], ast.Load())
  elif isinstance(node, ast.Attribute) and node.attr.split("_")[0] in ("chosen", "rejected", "sums", "lengths"):
    yield ast.Attribute(node.value, OTHER_NAME[node.attr], ast.Load())
  elif isinstance(node, ast.Call):
    yield from _calls(node)


def _constants(value) -> Iterator:
  if isinstance(value, bool):
    yield not value
  elif isinstance(value, int | float):
    yield from {0: [1], 1: [0, 2], 2: [1, 3], 0.5: [1.0, 0.0]}.get(value, [2 * value, value / 2])
  elif value is None or value in ("reference", "margin", "token_kl", "prompt", "mismatched", "shift"):
    yield from ["nothing"] if value else []


def _calls(node: ast.Call) -> Iterator[ast.expr]:
  name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
  if OTHER_CALL.get(name):
    other = OTHER_CALL[name]
    func = (
      ast.Attribute(node.func.value, other, ast.Load()) if isinstance(node.func, ast.Attribute) else ast.Name(other)
    )
    yield ast.Call(func, node.args, node.keywords)
  if name in FORGOTTEN and node.args:
    yield node.args[0]
    if name in ("minimum", "maximum"):
      yield node.args[1]
  if name == "where" and len(node.args) == 3:
    yield from node.args[1:]
  for i in range(len(node.keywords)):
    yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])
