"""A service that is used for long, given up and spoken to badly: python -m tests.system.endurance soak --streams 64

    soak        so many streams at once for minutes; every token as it was alone, and nothing grows
    cancels     so many requests given up in the queue, in their prompt and in their answer; nothing of them is left
    malformed   so many malformed bodies to all routes of HTTP; none is a failure of ours, none is answered late

`soak` and `malformed` serve the demo model, `cancels` a small one that is made up, unless a file is named.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.system.clients import SHAPE
from tests.system.endurance import cancels, malformed, soak
from tests.system.endurance.service import Service, serving
from tests.tiny_model import write_tiny_model

Report = soak.Report | cancels.Report | malformed.Report
SERVE_FLAGS = {"soak": soak.SERVE_FLAGS, "cancels": cancels.SERVE_FLAGS, "malformed": malformed.SERVE_FLAGS}


def main() -> int:
    """Print what was measured, and what should not have been; the exit status says whether there was any of that."""
    options = _options()
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        report = asyncio.run(_run(options, log))
        if options.log is not None:
            options.log.write_text(log.read_text())
    sys.stdout.write(f"{report}\n")
    return bool(report.faults)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a GGUF file")
    parser.add_argument("--log", type=Path, help="where to write the service's log")
    campaigns = parser.add_subparsers(dest="campaign", required=True)
    one = campaigns.add_parser("soak")
    one.add_argument("--streams", type=int, default=16, help="at once (default: %(default)s)")
    one.add_argument("--minutes", type=float, default=10.0, help="length (default: %(default)s)")
    one = campaigns.add_parser("cancels")
    one.add_argument("--count", type=int, default=1000, help="requests given up (default: %(default)s)")
    one = campaigns.add_parser("malformed")
    one.add_argument("--count", type=int, default=20_000, help="bodies (default: %(default)s)")
    return parser.parse_args()


async def _run(options: argparse.Namespace, log: Path) -> Report:
    model: Path | None = options.model
    if model is None and options.campaign == "cancels":
        model = log.with_name("tiny.gguf")
        write_tiny_model(model, SHAPE)
    named, faults = () if model is None else (str(model),), list[str]()
    async with serving(log, faults, *named, *SERVE_FLAGS[options.campaign]) as service:
        report = await _campaign(options, service)
    report.faults.extend(faults)
    return report


async def _campaign(options: argparse.Namespace, service: Service) -> Report:
    match options.campaign:
        case "soak":
            return await soak.soak(service, options.streams, 60.0 * options.minutes, options.seed)
        case "cancels":
            return await cancels.cancel(service, options.count, options.seed)
        case _:
            return await malformed.malform(service, options.count, options.seed)


if __name__ == "__main__":
    sys.exit(main())
