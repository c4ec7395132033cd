"""`python -m service`: settings, logging, serve."""

import sys

from service.logs import configure_logging
from service.settings import Settings


def main() -> None:
    """The command `attendant-server`."""
    settings = Settings.load(sys.argv[1:])
    configure_logging(settings.log_level, settings.log_format)
    # Imported late: --help and a wrong flag should not wait for ONNX Runtime.
    from service.server import serve

    try:
        serve(settings)
    except OSError as error:
        sys.exit(f"attendant-server: {error}")


if __name__ == "__main__":
    main()
