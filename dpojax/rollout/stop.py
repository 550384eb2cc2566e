"""Stop texts as a setting."""

import json

from dpojax.errors import ConfigError


def stop_texts(setting: str, key: str) -> tuple[str, ...]:
  """The texts that end an answer, of a setting that holds one as it stands or several as a JSON list.

  Raises:
    ConfigError: it begins like a list and is none of texts, or one is empty; names `key`.

  >>> stop_texts('["Human:", "###"]', "monitor.stop")
  ('Human:', '###')
  """
  if not setting:
    return ()
  if not setting.lstrip().startswith("["):
    return (setting,)
  try:
    texts = json.loads(setting)
  except ValueError:
    texts = None
  if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
    raise ConfigError(f'{key} wants one text, or a JSON list of texts such as ["Human:", "###"], got {setting!r}')
  return tuple(texts)
