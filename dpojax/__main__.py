"""`python -m dpojax` is the `dpojax` command."""

import sys

from dpojax.cli.main import main

sys.exit(main())
