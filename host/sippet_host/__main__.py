"""``sippet``, also ``python -m sippet_host``: imports the command line. Ctrl-C may come while it does."""

import sys


def run() -> None:
    """Run the command that the arguments name."""
    try:
        from .cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()


if __name__ == "__main__":
    run()
