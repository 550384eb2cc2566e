"""The page for people who come from TRL says what the program answers."""

import importlib.util
import pathlib

from dpojax.config.keys import fields_by_key
from dpojax.losses import LOSSES

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def made():
  spec = importlib.util.spec_from_file_location("make_coming_from_trl", DOCS / "make_coming_from_trl.py")
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_page_is_what_its_script_makes():
  assert (DOCS / "coming_from_trl.md").read_text(encoding="utf-8") == made().page()


def test_what_it_names_is_there():
  module = made()
  assert set(module.LOSSES.values()) <= set(LOSSES)
  assert {f"loss.{name}" for name in module.SAME} <= set(fields_by_key())
