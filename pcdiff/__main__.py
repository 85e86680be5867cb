"""``python -m pcdiff``, which is what ``torchrun -m pcdiff`` starts."""

from __future__ import annotations

import sys

from pcdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
