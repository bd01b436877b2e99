"""The SuperLink's process: Flower's own, with pulls that wait. Its arguments are those of `flower-superlink`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from gemel.server.flower.internals import run_superlink

    run_superlink(sys.argv[1:])
