"""`python -m attendant` is the `attendant` command."""

import sys

from attendant.cli import main

sys.exit(main())
