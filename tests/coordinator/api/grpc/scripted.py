"""Fake workers that draw a text that a test gives, behind a template that a test gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from numoe.model.chat.formats import find_formats
from numoe.protos.messages import NOT_DRAWN, Chunk
from tests.coordinator.api.grpc.grpc_serving import FakeWorkers
from tests.coordinator.engine.fake_executor import LIMITS
from tests.coordinator.tiny_tokenizer import LETTERS, TOKENIZER
from tests.model.text.chat_templates import QWEN3_LIKE, started
from tests.tiny_vocabulary import IM_END

ROOMY = replace(LIMITS, context_tokens=2048, kv_blocks=512)  # a tiny vocabulary spells templates letter by letter


class Scripted(FakeWorkers):
    """Workers that draw the tokens of a text, and then the end of the turn, whatever they are asked.

    Of several texts each answer has the next one; those behind the last have the last one, too.
    """

    def __init__(self, *scripts: str, **options: Any) -> None:
        super().__init__(LETTERS, limits=ROOMY, **options)
        self._scripts = [TOKENIZER.encode(script + IM_END) for script in scripts]
        self._begun = 0
        # Of a sequence, by its first block: where its answer begins, where it is, and what it says.
        self._answers: dict[int, tuple[int, int, list[int]]] = {}

    def _run(self, chunk: Chunk) -> list[tuple[int, float]]:
        drawn = super()._run(chunk)
        if not drawn or (len(chunk.given) and chunk.given[-1] != NOT_DRAWN):
            return drawn
        block, position = int(chunk.kv_blocks[0]), chunk.first_position + len(chunk.token_ids)
        first = position if len(chunk.given) else position + 1 - chunk.draws
        begin, last, script = self._answers.get(block, (first, first, []))
        if not begin < first <= last + 1:  # another sequence has the block
            begin, script = first, self._next()
        self._answers[block] = begin, position, script
        told, drawn = drawn[: first - position - 1], drawn[first - position - 1 :]
        places = [min(at - begin, len(script) - 1) for at in range(first, position + 1)]
        return [*told, *((script[place], logprob) for place, (_, logprob) in zip(places, drawn, strict=True))]

    def _next(self) -> list[int]:
        self._begun += 1
        return self._scripts[min(self._begun, len(self._scripts)) - 1]


@contextmanager
def chatting(source: str = QWEN3_LIKE) -> Iterator[dict[str, Any]]:
    """What makes a server answer as the model of a template."""
    with started(source) as template:
        yield {"template": template, "formats": find_formats(template)}
