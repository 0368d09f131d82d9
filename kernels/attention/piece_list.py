"""Whether the threads share out the pieces of contexts in a step, and which pieces those are."""

from __future__ import annotations

from numoe.kernels.attention.pieces import pieces_of
from numoe.kernels.attention.scratch import PIECE
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.records import Memory, ShardSizes, StepInput

SPLIT_BELOW = 4  # pieces are shared out where the longest of the step is more than this part of a thread's share
SHARED_PIECES = -1  # in piece_starts: how many pieces are shared out, 0 if whole tokens are


@kernel
def list_pieces(threads: int, sizes: ShardSizes, memory: Memory, step: StepInput) -> None:
    """Decide, by one thread, whether the threads share out pieces or whole tokens in this step; list them if pieces.

    Tokens are best where there are enough of them for every thread: no results pass through memory, and there is no
    second phase. What is decided changes no bit of a result.
    """
    tokens, starts = step.header[0], memory.piece_starts
    total = most = 0
    for token in range(tokens):
        pieces = pieces_of(step.positions[token])
        starts[token] = total
        total, most = total + pieces, max(most, pieces)
    few = total * sizes.own_kv_heads < SPLIT_BELOW * threads * most
    starts[SHARED_PIECES] = total if threads > 1 and most > 1 and few and total <= memory.piece_tokens.shape[0] else 0
    if starts[SHARED_PIECES] > 0:
        for token in range(tokens):
            memory.piece_tokens[starts[token] : starts[token] + pieces_of(step.positions[token])] = token


def most_pieces(threads: int, kv_heads: int, context_tokens: int) -> int:
    """How many pieces of a step are shared out at most: those of tokens that all see a full context."""
    return -(-SPLIT_BELOW * threads // max(kv_heads, 1)) * -(-context_tokens // PIECE)
