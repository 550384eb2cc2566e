"""The pages of docs/: their examples run, what they name exists, their links lead somewhere, and none is left out.

The site itself is built by `make docs`, where warnings are errors; continuous integration does so beside these tests.
"""

import ast
import doctest
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
GENERATED = {"settings", "metrics", "contributing", "changes", "experiments"}  # by docs/make_site.py


def blocks(text, language):
  return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


# Those of docs/losses.md are of docstrings, which tests/losses/test_doctests.py runs.
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if ">>> " in text and name != "losses"])
def test_examples_run(page):
  source = "\n".join(block for block in blocks(PAGES[page], "python") if ">>> " in block)
  example = doctest.DocTestParser().get_doctest(source, {}, page, str(DOCS / f"{page}.md"), 0)
  assert len(example.examples) >= 3
  said: list[str] = []
  failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
  assert not failed, "".join(said)


def test_python_that_is_shown_can_be_parsed():
  for text in PAGES.values():
    for block in blocks(text, "python"):
      if ">>> " not in block:
        ast.parse(block)


def names_in(path):
  """Functions, classes, their methods and module variables of a file: `Trainer.take_step`."""
  found = set()
  for node in ast.parse(path.read_text(encoding="utf-8")).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      found.add(node.name)
    if isinstance(node, ast.ClassDef):
      found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    if isinstance(node, ast.Assign):
      found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
  return found


def steps_of_the_way():
  """(file, names) of each stop of docs/one_batch.md."""
  for line in re.findall(r"^\d+\. (.*)$", PAGES["one_batch"], re.MULTILINE):
    for part in re.split(r", and |\. (?=`dpojax)", line.partition(": ")[0] + "."):
      file, *names = re.findall(r"`([^`]+)`", part)
      yield file, names


def test_the_way_of_one_batch_passes_files_and_functions_that_exist():
  steps = list(steps_of_the_way())
  assert len(steps) >= 35
  for file, names in steps:
    assert (ROOT / file).is_file(), file
    missing = set(names) - names_in(ROOT / file)
    assert not missing, f"{file} has no {', '.join(missing)}"


def test_the_way_is_numbered_without_gaps():
  numbers = re.findall(r"^(\d+)\. ", PAGES["one_batch"], re.MULTILINE)
  assert list(map(int, numbers)) == list(range(1, len(numbers) + 1))


def test_files_that_pages_name_exist():
  for page, text in PAGES.items():
    if page == "decisions":  # which also tells of what is gone
      continue
    for file in re.findall(
      r"`((?:dpojax|docs|tests|benchmarks|experiments|notebooks)/[a-z0-9_/]+\.(?:py|md|ipynb))`", text
    ):
      assert (ROOT / file).is_file(), f"docs/{page}.md names {file}"


def slug(heading):
  """The anchor of a heading."""
  text = re.sub(r"[`*]", "", heading).strip().lower()
  return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def test_links_between_pages_lead_somewhere():
  anchors = {
    name: {slug(line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)} for name, text in PAGES.items()
  }
  for page, text in PAGES.items():
    for target, anchor in re.findall(r"\]\(/?((?:generated/)?[\w/]+)\.md(?:#([\w-]+))?\)", text):
      name = target.removeprefix("generated/")
      assert name in (GENERATED if target.startswith("generated/") else PAGES), f"docs/{page}.md links to {target}.md"
      if anchor and name in anchors and not target.startswith("generated/"):
        assert anchor in anchors[name], f"docs/{page}.md links to {target}.md#{anchor}"


def test_the_readme_is_short_and_names_pages_that_exist():
  text = (ROOT / "README.md").read_text(encoding="utf-8")
  assert len(text.splitlines()) <= 120
  for name in re.findall(r"`docs/(\w+)\.md`", text):
    assert name in PAGES


def test_every_page_is_in_the_table_of_contents():
  listed = re.findall(r"^(?:.*<)?([\w/]+)>?$", "\n".join(blocks(PAGES["index"], r"\{toctree\}")), re.MULTILINE)
  listed = {name for name in listed if not name.startswith("generated/")}
  missing = PAGES.keys() - listed - {"index"}
  assert not missing and listed <= PAGES.keys()


@pytest.mark.parametrize("question", ["add a loss", "pass my own reward", "a step train on", "rewards/margins"])
def test_the_questions_of_a_reader_are_answered_one_click_from_the_start(question):
  (line,) = (line for line in PAGES["index"].splitlines() if question in line and line.startswith("|"))
  assert re.search(r"\]\((questions|generated/metrics)\.md", line)
