"""All hostile clients in one process: python -m tests.system.siege.hostile ADDRESS SEED [ATTACK ...]

It says "begun" once each attack was begun, and ends when its standard input is closed: with a table of what came of the
attacks, as JSON, how often by attack and outcome.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter

from tests.system.siege.attacks import ATTACKS, Attack, Attacker

PATIENCE_SECONDS = 150.0  # an attack that takes longer hangs
PAUSE_SECONDS = 0.05  # between one attack of a kind and the next


async def repeat(name: str, function: Attack, attacker: Attacker, outcomes: dict[str, Counter[str]]) -> None:
    """Do it over and over, and count what comes of it."""
    while True:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                outcome = await function(attacker)
        except TimeoutError:
            outcome = f"hung for {PATIENCE_SECONDS:.0f} s"
        except Exception as error:  # whatever it is: the table shows it, and it counts as a fault
            outcome = f"{type(error).__name__}: {error}"
        outcomes[name][outcome] += 1
        await asyncio.sleep(PAUSE_SECONDS)


async def run(address: str, seed: int, names: list[str]) -> dict[str, Counter[str]]:
    """Attack until standard input is closed."""
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names or ATTACKS}
    tasks = [
        asyncio.create_task(
            repeat(name, ATTACKS[name][0], Attacker(address, random.Random(f"{seed} {name}")), outcomes)
        )
        for name in outcomes
    ]
    await asyncio.sleep(0)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return outcomes


if __name__ == "__main__":
    os.nice(19)
    json.dump(asyncio.run(run(sys.argv[1], int(sys.argv[2]), sys.argv[3:])), sys.stdout)
