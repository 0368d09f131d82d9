"""Loses parts of a service on two hosts, again and again: python -m tests.system.hosts --harm wire --losses 5"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.system.clients import SHAPE, connected
from tests.system.hosts.harms import HARMS
from tests.system.hosts.several_hosts import FLAGS, THERE, serving_on, several_hosts
from tests.system.losses.campaign import Campaign, Report
from tests.tiny_model import write_tiny_model


async def run(harm: str, losses: int, seed: int, log: Path | None) -> Report:
    """All rounds of one kind of harm."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_model(folder / "tiny.gguf", SHAPE)
        with several_hosts(THERE) as hosts:
            try:
                with serving_on(hosts, folder / "log", str(folder / "tiny.gguf"), *FLAGS) as server:
                    async with connected(server.address) as client:
                        campaign = Campaign(server, client, seed)
                        await campaign.learn()
                        for _ in range(losses):
                            await campaign.lose(HARMS[harm](hosts))
                        await campaign.rest()
                        return campaign.report
            finally:
                if log is not None:
                    log.write_text((folder / "log").read_text())


def main() -> int:
    """Print what was measured; the exit status says whether any answer was another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", type=int, default=5, help="how many (default: %(default)s)")
    parser.add_argument("--harm", choices=HARMS, default="worker", help="what is done (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--log", type=Path, help="where to write the service's log")
    options = parser.parse_args()
    report = asyncio.run(run(options.harm, options.losses, options.seed, options.log))
    sys.stdout.write(f"{report}\n")
    return bool(report.different)


if __name__ == "__main__":
    sys.exit(main())
