"""`python -m dpojax` is the `dpojax` command."""

import sys

from dpojax.cli.launch import command

sys.exit(command())
