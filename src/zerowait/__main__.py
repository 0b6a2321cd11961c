"""`python -m zerowait`, the same as the command `zerowait`."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    try:
        from zerowait.cli.main import main as run
    except KeyboardInterrupt:  # Ctrl-C in the first moment
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
