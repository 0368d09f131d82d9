"""All hostile clients in one process: python -m tests.system.siege.hostile ADDRESS HTTP SEED [ATTACK ...]

It says "begun" once each attack was begun, "each over" once each was over, and ends when its standard input is closed:
with a table of what came of the attacks, as JSON, how often by attack and outcome.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter

from tests.system.siege import http_attacks  # noqa: F401  registers its attacks
from tests.system.siege.attacks import ATTACKS, Attack, Attacker

PATIENCE_SECONDS = 150.0  # an attack that takes longer hangs
PAUSE_SECONDS = 0.05  # between one attack of a kind and the next


def say(line: str) -> None:
    """To whoever besieges."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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
        was_each_over = all(outcomes.values())
        outcomes[name][outcome] += 1
        if all(outcomes.values()) and not was_each_over:
            say("each over")
        await asyncio.sleep(PAUSE_SECONDS)


async def run(address: str, http: str, seed: int, names: list[str]) -> dict[str, Counter[str]]:
    """Attack until standard input is closed."""
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names or ATTACKS}
    tasks = [
        asyncio.create_task(
            repeat(name, ATTACKS[name][0], Attacker(address, http, random.Random(f"{seed} {name}")), outcomes)
        )
        for name in outcomes
    ]
    await asyncio.sleep(0)
    say("begun")
    await asyncio.to_thread(sys.stdin.read)
    left = set(tasks)
    while left:  # more than once: a library may lose the word to end
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1.0)
    return outcomes


if __name__ == "__main__":
    os.nice(19)
    json.dump(asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])), sys.stdout)
