"""The `optlang` command; see cli/app.py."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from optlang.cli.app import command

    sys.exit(command(sys.argv[1:]))


if __name__ == "__main__":
    main()
