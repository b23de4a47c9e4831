"""``python -m zhibei`` and the ``zhibei`` command. The only place that ends the process."""

from __future__ import annotations

import sys

from zhibei.cli.main import run


def main() -> None:
    """Run the command line given to this process, and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
