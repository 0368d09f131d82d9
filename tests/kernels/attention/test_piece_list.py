"""When the threads of a worker share out the pieces of contexts, and which pieces those are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.piece_list import SHARED_PIECES, list_pieces, most_pieces
from numoe.kernels.attention.scratch import PIECE

CONTEXT = 32768


def listed(
    positions: list[int], threads: int = 2, kv_heads: int = 2, room: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The token of each piece, and the first piece of each token; nothing if tokens are shared out whole."""
    pieces = most_pieces(threads, kv_heads, CONTEXT) if room is None else room
    memory = SimpleNamespace(
        piece_tokens=np.full(pieces, -1, np.int32), piece_starts=np.full(len(positions) + 3, -1, np.int32)
    )
    step = SimpleNamespace(header=np.array([len(positions), 0, 0]), positions=np.array(positions))
    list_pieces.py_func(threads, SimpleNamespace(own_kv_heads=kv_heads), memory, step)  # type: ignore[attr-defined]
    total = int(memory.piece_starts[SHARED_PIECES])
    return memory.piece_tokens[:total], memory.piece_starts[: len(positions) if total else 0]


def test_the_pieces_of_a_lone_long_context_are_shared_out() -> None:
    tokens, starts = listed([CONTEXT - 1])
    assert tokens.tolist() == [0] * (CONTEXT // PIECE)
    assert starts.tolist() == [0]


def test_pieces_are_listed_token_by_token() -> None:
    tokens, starts = listed([3 * PIECE, 5, PIECE - 1, PIECE])
    assert tokens.tolist() == [0, 0, 0, 0, 1, 2, 3, 3]
    assert starts.tolist() == [0, 4, 5, 6]


def test_a_context_of_one_piece_is_not_shared_out() -> None:
    assert listed([PIECE - 1])[0].size == 0
    assert listed([PIECE])[0].size == 2


def test_a_lone_thread_shares_nothing_out() -> None:
    assert listed([CONTEXT - 1], threads=1, room=1000)[0].size == 0


def test_a_prompts_chunk_is_not_shared_out() -> None:
    assert listed(list(range(8192, 8704)))[0].size == 0


def test_one_long_context_among_short_ones_is_shared_out() -> None:
    assert listed([*range(50), 20 * PIECE], room=1000)[0].size == 50 + 21


def test_there_is_room_for_all_full_contexts_that_are_shared_out_and_no_more_is_ever_listed() -> None:
    for threads, kv_heads in ((2, 1), (2, 2), (64, 1), (7, 3)):
        sizes = [listed([CONTEXT - 1] * tokens, threads, kv_heads)[0].size for tokens in range(1, 300)]
        shared = [tokens for tokens, size in enumerate(sizes, 1) if size]
        assert shared == list(range(1, -(-4 * threads // kv_heads)))
        assert max(sizes) <= most_pieces(threads, kv_heads, CONTEXT)
    assert listed([CONTEXT - 1], room=CONTEXT // PIECE - 1)[0].size == 0
