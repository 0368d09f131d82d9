"""What a measurement gives, and its name; numoe and its peers have the same names, so that rows can be matched.

As coordinator/measuring/cases.py names them, and besides:

16 x tg32        32 tokens of each of 16 sequences at once, after a prompt each
16 x tg32 alike  the same tokens in all 16, which so choose the same experts: what ik_llama.cpp's tool decodes
tg32 sampled     drawn with the settings that Qwen3's makers recommend, instead of the likeliest; of streams too
tg16 disturbed   16 tokens one by one while another process keeps one of the cores busy
"""

from __future__ import annotations

from dataclasses import dataclass

from numoe.coordinator.measuring.cases import Case

OURS = "ours"


def prompt_name(tokens: int, depth: int = 0) -> str:
    """The name of a prompt of so many tokens after `depth` others."""
    return Case(tokens, 0, depth).name


def decode_name(tokens: int, depth: int = 0) -> str:
    """The name of so many tokens that are decoded one by one after `depth` others."""
    return Case(0, tokens, depth).name


def streams_name(streams: int, tokens: int, *, alike: bool = False) -> str:
    """The name of so many tokens of each stream, all decoded at once; of a single one too."""
    return f"{streams} x {decode_name(tokens)}" + (" alike" if alike and streams > 1 else "")


def sampled_name(name: str) -> str:
    """The name of a decode whose tokens are drawn."""
    return f"{name} sampled"


def disturbed_name(tokens: int) -> str:
    """The name of so many tokens that are decoded while another process takes a core."""
    return f"{decode_name(tokens)} disturbed"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement in one round, by one engine; what only numoe can tell is 0 for the others."""

    case: str
    engine: str
    metric: str
    round: int
    tokens_per_second: tuple[float, ...]  # one per repetition; none: it failed
    layout: str = ""  # of numoe: workers x threads of each
    threads: int = 0  # in all
    weight_bytes: float = 0.0  # read per token
    kv_bytes: float = 0.0  # read per token, keys and values of all positions before it
    operations: float = 0.0  # per token, with the weights: 2 per product and addition
    error: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The most the machine gave in the same run."""

    read_bytes_per_second: float
    operations_per_second: float  # of one core
