"""Environments of peers.

python -m bench.peers            which there are, and which are installed
python -m bench.peers install NAME ...
"""

import argparse
import subprocess
import sys

from bench.peers.environments import how_to_install, install, is_installed, names


def main() -> None:
    """List or install."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    installing = commands.add_parser("install", help="into .build/peers")
    installing.add_argument("names", nargs="+", choices=names(), metavar="NAME")
    options = parser.parse_args()
    if options.command is None:
        for name in names():
            print(f"{name} is installed" if is_installed(name) else how_to_install(name))
        return
    for name in options.names:
        try:
            install(name)
        except subprocess.CalledProcessError as error:
            sys.exit(f"installing {name} failed: {error}")
        print(f"{name} is installed")


if __name__ == "__main__":
    main()
