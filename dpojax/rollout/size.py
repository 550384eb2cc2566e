"""How large a roll-out may be."""

from dpojax.errors import ConfigError

MOST_ANSWERS = 10_000_000  # beyond, no memory holds them


def check_size(answers: int, keys: str) -> None:
  """Raises ConfigError, naming the settings `keys`, where a roll-out has more answers than any memory holds."""
  if answers > MOST_ANSWERS:
    raise ConfigError(f"a roll-out would have {answers:,} answers, more than {MOST_ANSWERS:,}; lower {keys}")
