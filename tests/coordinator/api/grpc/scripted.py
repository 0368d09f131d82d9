"""Fake workers that draw a text that a test gives, behind a template that a test gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from numoe.model.chat.formats import find_formats
from numoe.protos.messages import Chunk
from tests.coordinator.api.grpc.grpc_serving import FakeWorkers, tiny_read
from tests.coordinator.engine.fake_executor import LIMITS
from tests.coordinator.tiny_tokenizer import LETTERS
from tests.model.text.chat_templates import QWEN3_LIKE, started

ROOMY = replace(LIMITS, context_tokens=1024, kv_blocks=128)  # the smallest tokens spell templates letter by letter


class Scripted(FakeWorkers):
    """Fake workers that draw a given text, and then the end, in answer to prompts of one length."""

    script: Sequence[int] = ()
    start: int | None = None  # the first position that was drawn

    def _run(self, chunk: Chunk) -> list[tuple[int, float]]:
        drawn = super()._run(chunk)
        if not drawn:
            return []
        position = chunk.first_position + len(chunk.token_ids)
        self.start = position if self.start is None else self.start
        return [*drawn[:-1], (self.script[(position - self.start) % len(self.script)], drawn[-1][1])]


def scripted(text: str, **options: Any) -> Scripted:
    workers = Scripted(LETTERS, limits=ROOMY, **options)
    workers.script = tiny_read()[1].encode(text + "<|im_end|>")
    return workers


@contextmanager
def chatting(source: str = QWEN3_LIKE) -> Iterator[dict[str, Any]]:
    """What makes a server answer as the model of a template."""
    with started(source) as template:
        yield {"template": template, "formats": find_formats(template)}
