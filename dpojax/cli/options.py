"""What `train` and `sweep` share: reading `--config=FILE`, `--config.KEY=VALUE` and the options beside them."""

import argparse
import re

from dpojax.cli.arguments import file_path
from dpojax.config.experiment import Experiment
from dpojax.config.foreign_keys import explained
from dpojax.config.keys import fields_by_key, last_parts, suggestion
from dpojax.errors import ConfigError


class Parser(argparse.ArgumentParser):
  """An ArgumentParser whose errors are ours: one line, exit code 2."""

  def __init__(self, prog: str, description: str, **options):
    super().__init__(
      prog=prog,
      description=description,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      **options,
    )

  def error(self, message: str):
    raise ConfigError(f"{message}; see {self.prog} --help")

  def parse_args(self, args=None, namespace=None):
    """As argparse does it, but an unknown option is named with the nearest known one."""
    options, rest = self.parse_known_args(args, namespace)
    for word in rest:
      self.refuse_unknown(word)
      self.error(f"unrecognized argument {word!r}")
    return options

  def parse_known_args(self, args=None, namespace=None):
    """As argparse does it, which makes an empty list of the value of `--NAME=--`; errors as `parse_args`."""
    for name, _, value in (word.partition("=") for word in args or ()):
      if value == "--" and any(name in action.option_strings for action in self._actions):
        self.error(f"argument {name}: expected a value, got '--'")
    return super().parse_known_args(args, namespace)

  def refuse_unknown(self, word: str) -> None:
    """Raises ConfigError if `word` is an option."""
    if word.startswith("-"):
      known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
      name = word.partition("=")[0]
      if "--config" in known and not suggestion(name, known):
        self.refuse_setting(name.lstrip("-"))
      self.error(f"unknown option {name!r}{suggestion(name, known)}")

  def refuse_setting(self, key: str) -> None:
    """Raises ConfigError if `key` is a setting, a part of one, or called so elsewhere: those stand behind `--config.`."""
    keys = fields_by_key()
    hint = f"; did you mean '--config.{key}'?" if key in keys else explained(key, last_parts())
    if not hint and ("." in key or key in last_parts()):
      hint = suggestion(key, keys)
    if hint:
      self.error(f"unknown option '--{key}'{hint}; a setting is given as --config.KEY=VALUE")


def config_parser(prog: str, description: str) -> Parser:
  """A parser with `--config` and `--workdir`, whose help lists every setting."""
  parser = Parser(
    prog,
    description,
    usage=f"{prog} --config=FILE[:ARG] [--config.KEY=VALUE ...] --workdir=DIR [OPTIONS]",
    epilog=f"settings, as --config.KEY=VALUE, of several stages --config.STAGE.KEY=VALUE:\n{_settings()}",
  )
  parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="a Python file with get_config([ARG])")
  parser.add_argument(
    "--workdir", required=True, metavar="DIR", type=file_path, help="everything the run writes goes here"
  )
  return parser


def parse_with_config(parser: Parser, arguments: list[str]) -> tuple[argparse.Namespace, Experiment]:
  """The options, and the checked stages of `--config` with its overrides; `options.words` holds these as given.

  Raises:
    ConfigError: an unknown option, with the nearest one; or whatever `load_experiment` refuses.
  """
  options, options_words = parser.parse_known_args(arguments)
  for word in options_words:
    if not re.match(r"--?(no)?config\.|-[\d.]", word):
      parser.refuse_unknown(word)
  from dpojax.config.load import load_experiment

  options.words = options_words
  return options, load_experiment(options.config, options_words)


def _settings() -> str:
  lines = []
  for key, field in fields_by_key().items():
    choices = field.metadata["choices"]
    names = f" ({', '.join(choices)})" if choices and not all(c in field.metadata["meaning"] for c in choices) else ""
    lines.append(f"  {f'{key}={field.default}':<42} {field.metadata['meaning']}{names}")
  return "\n".join(lines)
