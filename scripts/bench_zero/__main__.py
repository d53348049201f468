"""`python -m bench_zero [--json FILE]`."""

from __future__ import annotations

import sys

from bench_zero.table import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
