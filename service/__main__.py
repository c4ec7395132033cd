"""`python -m service`: settings, logging, then serve, check the models or explain a call."""

import os
import sys

from service.errors import BundleError
from service.explain import explain
from service.logs import configure_logging
from service.settings import Settings

SELF_TEST = "--self-test"
EXPLAIN = "--explain"


def main() -> None:
    """The command `attendant-server`."""
    if sys.argv[1:2] == [EXPLAIN]:
        if len(sys.argv) < 3:
            sys.exit(f"attendant-server: expected {EXPLAIN} REQUEST_ID [FILE ...]")
        sys.exit(explain(sys.argv[2], sys.argv[3:] or ["-"]))
    arguments = [argument for argument in sys.argv[1:] if argument != SELF_TEST]
    settings = Settings.load(arguments)
    testing = SELF_TEST in sys.argv[1:]
    # The report of a self-test says what a server would log.
    level = "warning" if testing and settings.log_level == "info" else settings.log_level
    configure_logging(level, settings.log_format, contents=settings.log_contents)
    # Or gRPC's core writes of each failed handshake, by itself and not as our lines are.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Imported late: --help and a wrong flag should not wait for ONNX Runtime.
    if testing:
        from service.selftest import self_test

        sys.exit(self_test(settings))
    from service.server import serve

    try:
        serve(settings)
    except (OSError, ValueError, BundleError) as error:
        sys.exit(f"attendant-server: {error}")


if __name__ == "__main__":
    main()
