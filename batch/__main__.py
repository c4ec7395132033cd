"""`python -m batch` is the command `attendant-batch`."""

import sys

from batch.cli import main

sys.exit(main())
