"""README's examples of the Python client work as they are printed, but for the port."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, running_server
from tests.coordinator.api.grpc.scripted import Scripted, chatting

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
LINES = 15
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'


async def printed(example: str, answer: str) -> str:
    """What an example prints where the model answers so."""
    pipe = asyncio.subprocess.PIPE
    with chatting() as model:
        async with running_server(Scripted(answer), **model) as running:
            program = example.replace("127.0.0.1:50151", running.ready.address)
            command = (sys.executable, "-W", "error", "-c", program)
            process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
            try:
                out, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
            finally:
                if process.returncode is None:
                    process.kill()
    assert (process.returncode, errors.decode()) == (0, "")
    return out.decode()


def test_there_are_two_and_they_are_short() -> None:
    assert len(EXAMPLES) == 2
    assert all("127.0.0.1:50151" in example and example.count("\n") <= LINES for example in EXAMPLES)


async def test_the_first_shows_an_answer_as_it_comes() -> None:
    told = await printed(EXAMPLES[0], "Light is scattered.")
    assert re.fullmatch(r"tiny qwen3moe reads \d+ tokens\nLight is scattered\.\n\d+ tokens, then stop\n", told)


async def test_the_second_shows_what_the_model_calls() -> None:
    told = await printed(EXAMPLES[1], f"Look:\n{CALL}")
    assert re.fullmatch(r"""Look:\nToolCall\(id='.+', name='weather', arguments='{"city": "Bern"}'\)\n""", told)
