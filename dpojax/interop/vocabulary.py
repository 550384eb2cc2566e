"""Whether a tokenizer and the embedding beside it fit."""

import sys
from pathlib import Path

from dpojax.errors import WeightsError
from dpojax.interop.tokenizer import Tokenizer


def check_embedding(tokenizer: Tokenizer, rows: int, where: str | Path) -> None:
  """Says in one line on stderr that the tokenizer has tokens which the model has no row for.

  Rows of data that hold one are refused, see `TokenDataset.check_vocabulary`.

  Args:
    rows: of the model's embedding.
    where: the model, for messages.

  Raises:
    WeightsError: one of them is sure to be met: BOS, EOS, padding, unknown, or a token of the chat template.
  """
  beyond = tokenizer.tokens_from(rows)
  if not beyond:
    return
  sizes = f"the tokenizer's ids go up to {max(beyond):,}, but the model's embedding has {rows:,} rows"
  used = {tokenizer.special_tokens[key]: key for key in reversed(tokenizer.special_tokens)}
  for token, text in beyond.items():
    role = used.get(text)
    if token in tokenizer.eos_ids:
      role = "eos_token"
    elif role is None and text in tokenizer.added_tokens() and text in (tokenizer.chat_template or ""):
      role = "token of the chat template"
    if role is not None:
      raise WeightsError(
        f"{where}: {sizes}; the {role} {text!r} (id {token}) has none. Give the tokenizer that belongs to the weights, or "
        "weights whose embedding was made larger with it"
      )
  (token, text), others = next(iter(beyond.items())), len(beyond) - 1
  more = f" and {others:,} more" if others else ""
  print(f"dpojax: {where}: {sizes}: a row of data with {text!r} (id {token}){more} is an error", file=sys.stderr)
