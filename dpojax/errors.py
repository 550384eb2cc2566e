"""Errors about what a user gave us.

Each message names the file, row, key or option at fault and says what would be right. The command
line prints such an error as one line and exits with 2; any other exception is a defect of ours and
keeps its traceback.
"""


class InputError(ValueError):
  """Something given by the user is wrong, and the message says how to mend it."""


class ConfigError(InputError):
  """A config key or value: unknown, of the wrong type, out of range, or incompatible."""


class DataError(InputError):
  """A data file, row or column."""


class RowError(DataError):
  """A row that is left out for a reason other than being malformed.

  `reason` is the name under which it is counted, `dropped/REASON`.
  """

  def __init__(self, reason: str, message: str):
    super().__init__(message)
    self.reason = reason


class TemplateError(DataError):
  """A chat template that does not render, attacks its sandbox, or exhausts its limits.

  `index` is the position of the failing conversation in its batch; `exhausted`: its process ended, was late, or had no
  memory left.
  """

  index: int = 0
  exhausted: bool = False


class WeightsError(InputError):
  """A model folder, weight file, index or tokenizer."""


class CheckpointError(InputError):
  """A checkpoint or working directory: missing, damaged, or of another run."""


class TrainingError(InputError):
  """Training cannot go on: the loss or its gradient stays non-finite."""


class ShapeError(ValueError):
  """Arrays given to a function do not fit together; the message names them and their shapes.

  No InputError: in a run it is a defect of ours.
  """
