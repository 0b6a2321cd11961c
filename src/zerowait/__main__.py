"""`python -m zerowait`, the same as the command `zerowait`."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    from zerowait.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
