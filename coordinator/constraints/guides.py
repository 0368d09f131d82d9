"""Makes guides of grammars by llguidance, apart from the event loop, within limits.

*Guarantees*: whatever a client sends, compiling ends by itself within a second, and a mask within some 20 ms, as both
are counted in steps by the library, and memory in states; no depth ends the process. The library lets go of the GIL
while it does either. A mask is made once, however often it is asked for: 0.03 ms of a Zen 3 core for the arguments of
tools, 49,152 tokens. *Not guaranteed*: that a grammar which comes to a limit late is refused early; its answer then
ends with what the library says.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from numoe.coordinator.requests.constraint import (
    FIELD,
    Constraint,
    Grammar,
    Guide,
    check_constraint,
    schema_with_blanks,
)
from numoe.coordinator.requests.token_masks import TokenMask, mask_of, with_tokens
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import InvalidRequest
from numoe.protos.foreign_text import one_line

COMPILE_SECONDS = 5.0  # for one grammar, those that came before it included
_THREADS = 2  # so that one grammar that takes long holds up nobody
_STACK_BYTES = 256 << 20  # with the usual 8 MiB a chain of 3,000 rules, 50 KiB of text, ended the process
_LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,  # 10 ms
    step_lexer_fuel=200_000,  # 14 ms
    step_max_items=20_000,
    max_items_in_row=400,  # of an ambiguous grammar a mask then takes 18 ms at most, and 840 ms with 2,000
    max_lexer_states=20_000,  # 40 MB
    max_grammar_size=200_000,
    verbose_errors=False,  # which would quote the grammar
)
_TRACE = "<backtrace>"  # in what the library says of its own failures


class Guides:
    """One model's vocabulary as llguidance wants it, and the threads that compile.

    It is made at once, half a second of Python for 151,936 tokens, which would hold up streams once there are some.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._threads = _deep_threads()
        self._vocabulary = self._threads.submit(_vocabulary_of, tokenizer) if tokenizer.end_ids else None

    async def compile(self, constraint: Constraint) -> Guide:
        """Raises InvalidRequest: it is too large, no grammar, or takes too long."""
        check_constraint(constraint)
        if self._vocabulary is None:
            raise InvalidRequest(FIELD, "is not possible, as this model has no end-of-text token; leave it out")
        made = asyncio.get_running_loop().run_in_executor(self._threads, self._compile, self._vocabulary, constraint)
        try:
            return await asyncio.wait_for(made, COMPILE_SECONDS)
        except TimeoutError:
            expected = f"takes more than {COMPILE_SECONDS:g} s to compile; send a simpler one, or send it later"
            raise InvalidRequest(f"{FIELD}.{constraint.grammar}", expected) from None

    def _compile(self, made: Future[_Vocabulary], constraint: Constraint) -> Guide:
        try:
            grammar = _grammar_of(constraint)
        except ValueError as error:  # of JSON that Python reads and others do not: NaN, half of a surrogate pair
            raise InvalidRequest(f"{FIELD}.{constraint.grammar}", one_line(str(error))) from error
        vocabulary = made.result()
        matcher = LLMatcher(vocabulary.tokens, grammar, log_level=0, limits=_LIMITS)
        guide = MatcherGuide(matcher, with_tokens(vocabulary.drawable, constraint.control))
        guide.allowed()  # the first mask takes longest
        if problem := guide.problem:
            raise InvalidRequest(f"{FIELD}.{constraint.grammar}", problem)
        return guide


def _deep_threads() -> ThreadPoolExecutor:
    """Threads that have room for what calls itself as often as a grammar has rules."""
    threads, started = ThreadPoolExecutor(_THREADS, "numoe-grammar"), threading.Barrier(_THREADS)
    before = threading.stack_size(_STACK_BYTES)
    for _ in range(_THREADS):
        threads.submit(started.wait)  # each keeps its thread, so that the next one starts another
    threading.stack_size(before)
    return threads


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A model's tokens, as the library has them, and which of them any grammar may get."""

    tokens: LLTokenizer
    drawable: TokenMask  # those that spell something, and end tokens


def _vocabulary_of(tokenizer: Tokenizer) -> _Vocabulary:
    spelling, ends = _Spelling(tokenizer), sorted(tokenizer.end_ids)
    drawable = with_tokens(mask_of(np.array([bool(token) for token in spelling.tokens])), ends)
    return _Vocabulary(LLTokenizer(spelling, eos_token=ends), drawable)  # type: ignore[arg-type]


class _Spelling:
    """The tokens of a model, under the names that llguidance asks for."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.end_ids)
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocabulary)]
        self.special_token_ids: list[int] = []  # they spell nothing, so that no text allows one

    def __call__(self, text: bytes | str) -> list[int]:
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._tokenizer.encode(text, special=False)


class MatcherGuide:
    """Implements Guide."""

    __slots__ = ("_drawable", "_lock", "_mask", "_matcher")

    def __init__(self, matcher: LLMatcher, drawable: TokenMask) -> None:
        """`drawable`: the tokens that may be allowed at all, though the grammar asked for others."""
        self._matcher = matcher
        self._drawable = drawable
        self._mask: TokenMask | None = None
        self._lock = threading.Lock()

    def allowed(self) -> TokenMask:
        with self._lock:
            if self._mask is None:
                self._mask = self._made_mask()
            return self._mask

    def take(self, token_id: int) -> None:
        with self._lock:
            self._matcher.consume_token(token_id)
            self._mask = None

    def copy(self) -> MatcherGuide:
        with self._lock:
            return MatcherGuide(self._matcher.deep_copy(), self._drawable)

    @property
    def complete(self) -> bool:
        with self._lock:
            return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def problem(self) -> str:
        with self._lock:
            if not self._matcher.is_error():
                return ""
            said, _, _ = self._matcher.get_error().partition(_TRACE)
            return one_line(" ".join(said.split()))

    def _made_mask(self) -> TokenMask:
        if not self._matcher.is_error():
            made = self._matcher.compute_bitmask()
            if not self._matcher.is_error():
                return np.frombuffer(made, np.uint32, len(self._drawable)) & self._drawable
        return np.zeros_like(self._drawable)


def _grammar_of(constraint: Constraint) -> str:
    match constraint.grammar:
        case Grammar.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(schema_with_blanks(constraint.text))
        case Grammar.REGEX:
            return LLMatcher.grammar_from_regex(constraint.text)
        case Grammar.LARK:
            return LLMatcher.grammar_from_lark(constraint.text)
