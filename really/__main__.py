"""`python -m really` is the command `really`."""

from __future__ import annotations

import sys

from really.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
