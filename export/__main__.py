"""`attendant-export`: train, bundle, verify and evaluate. Thin: the commands live elsewhere."""

import sys

from export.commands import main

if __name__ == "__main__":
    sys.exit(main())
