"""Kills a worker of a busy service, again and again: python -m tests.system.losses --losses 50

Sixteen streams of all kinds are read at once, and at a random moment a part of the service is lost. Every stream must
end with the same tokens and log-probabilities as undisturbed, and nothing may be left of what was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.system.clients import SHAPE, connected
from tests.system.losses.campaign import (
    SERVE_FLAGS,
    Campaign,
    Holdings,
    Report,
    killing,
    killing_keeper,
    killing_process,
)
from tests.system.serve_process import serving
from tests.tiny_model import write_tiny_model

HARMS = {
    "kill": killing(signal.SIGKILL),
    "stop": killing(signal.SIGSTOP),
    "keeper": killing_keeper(signal.SIGKILL),
    "raylet": killing_process("raylet"),
    "gcs": killing_process("gcs_server"),
}


async def run(harm: str, losses: int, seed: int, model: Path | None, scale: float) -> Report:
    """All rounds of one kind of harm; `scale`: of prompts and answers."""
    with TemporaryDirectory() as folder:
        if model is None:
            model = Path(folder) / "tiny.gguf"
            write_tiny_model(model, SHAPE)
        with serving(Path(folder) / "log", str(model), *SERVE_FLAGS) as server:
            async with connected(server.address) as client:
                campaign = Campaign(server, client, seed, rested=True, scale=scale)
                await campaign.learn()
                await campaign.lose(HARMS[harm])
                await campaign.rest()
                campaign.report.before = Holdings.of(server)
                for _ in range(losses - 1):
                    await campaign.lose(HARMS[harm])
                await campaign.rest()
                campaign.report.after = Holdings.of(server)
                campaign.report.log = server.log
                return campaign.report


def main() -> int:
    """Print what was measured; the exit status says whether any answer was another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=int, default=50, help="how many (default: %(default)s)")
    parser.add_argument("--harm", choices=HARMS, default="kill", help="what is done (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a GGUF file (default: a small model that is made up)")
    parser.add_argument("--scale", type=float, default=1.0, help="of prompts and answers (default: %(default)s)")
    parser.add_argument("--log", type=Path, help="where to write the service's log")
    options = parser.parse_args()
    report = asyncio.run(run(options.harm, options.losses, options.seed, options.model, options.scale))
    if options.log is not None:
        options.log.write_text(report.log)
    sys.stdout.write(f"{report}\n")
    return bool(report.different)


if __name__ == "__main__":
    sys.exit(main())
