"""A served demo model under all hostile clients at once: python -m tests.system.siege --minutes 60

One honest client asks for the same answers over and over, first alone, then beside the hostile ones: a process
of their own at the lowest priority (on a machine of their own they would not take the service's processor time either).
It must get the same bits in every answer, a median time between tokens of less than twice that alone, and every health
check must be answered. Afterwards the service must be as it was, and end when it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.system.siege.campaign import MOST_SLOWDOWN, Campaign, besiege


def main() -> int:
    """Print what was measured, and what should not have been; the exit status says whether there was any of that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the siege (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the hostile clients' choices (default: %(default)s)")
    parser.add_argument("--only", nargs="*", default=(), metavar="ATTACK", help="some of the attacks (default: all)")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        campaign = Campaign(60.0 * options.minutes, options.seed, tuple(options.only))
        report = asyncio.run(besiege(Path(folder) / "log", campaign))
    sys.stdout.write(f"{report}\n")
    return bool(report.faults) or report.slowdown >= MOST_SLOWDOWN


if __name__ == "__main__":
    sys.exit(main())
