"""The program: `python -m edged`, and `edged` where it is installed."""

import sys

from edged.commands.quick_imports import quick_imports


def main() -> int:
    """Run the command that the command line names; gives its exit code."""
    with quick_imports():
        from edged.commands import cli  # noqa: PLC0415 - within that context
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
