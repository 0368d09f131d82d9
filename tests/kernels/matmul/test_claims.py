"""The claims of a matrix multiply every panel once by every group."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.experts.grouping import count_choices, group_by_expert
from numoe.kernels.matmul.claims import CLAIM_BYTES, claims_of, multiply_claim, panels_per_claim
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.records import MATRIX, Grouping, Record
from numoe.kernels.weights.formats import BLOCK, NUMBERS, ROWS, Format
from numoe.protos.arena import expert_columns
from tests.kernels.groupings import empty_grouping
from tests.kernels.numeric import (
    SEED,
    address,
    assert_within,
    dequantised,
    every_format,
    gamma,
    group_bytes,
    group_of,
    group_values,
    masses,
    packed,
    random_rows,
    tiles,
)


def matrix_of(format_: Format, rows: int, blocks: int, panels: NDArray[np.uint8]) -> tuple[Record, NDArray[np.uintp]]:
    """The record of panels [experts, panels, blocks, bytes], and the table that it points at."""
    record = np.zeros(1, MATRIX)[0]
    table = np.array([address(expert) for expert in panels], np.uintp)
    record["experts"], record["rows"], record["blocks"] = address(table), rows, blocks
    record["panels"] = panels.shape[1]
    record["panel_bytes"] = record["panel_stride"] = panels[0, 0].nbytes
    record["expert_bytes"] = panels[0].nbytes
    record["tile"], record["integer"] = NUMBERS[format_.name], format_.integer
    return record, table


def group_choices(grouping: Grouping, columns: NDArray[np.int32], chosen: NDArray[np.int32], experts: int) -> None:
    """Group all choices, experts split by row."""
    counts, tokens = np.zeros(experts, np.int32), len(chosen)
    count_choices(counts, np.zeros(experts, np.int64), chosen, tokens)
    group_by_expert(grouping, columns, counts, chosen, tokens, np.zeros(experts, np.int32), -1)


@every_format
@pytest.mark.parametrize(("rows", "blocks"), [(16, 8), (200, 40)])
def test_the_claims_of_experts_make_each_product_once(format_: Format, rows: int, blocks: int) -> None:
    """Bounds as in test_tiles.py. Columns that are padding stay as they were."""
    random, experts, tokens = np.random.default_rng(SEED), 5, 13
    stored = [random_rows(format_, rows, blocks * BLOCK, random) for _ in range(experts)]
    panels = np.stack([packed(format_, expert) for expert in stored])
    matrix, _table = matrix_of(format_, rows, blocks, panels)
    chosen = np.stack([random.permutation(4)[:2] for _ in range(tokens)]).astype(np.int32)  # nobody chooses expert 4
    grouping = empty_grouping(expert_columns(tokens, 2, experts), experts)
    columns = np.zeros((tokens, 2), np.int32)
    group_choices(grouping, columns, chosen, experts)
    x = random.standard_normal((tokens, blocks * BLOCK), np.float32)
    groups = np.zeros((grouping.used[1], blocks * group_bytes(format_.integer)), np.uint8)
    for group in grouping.groups[: grouping.segments[: grouping.used[0]]["groups"].sum()]:
        first, width = int(group["column"]), WIDTHS[group["width"]]
        own = np.zeros((width, blocks * BLOCK), np.float32)
        own[: group["count"]] = x[grouping.source[first : first + int(group["count"])]]
        groups[first : first + width] = group_of(format_, own).reshape(width, -1)
    out = np.full((len(groups), panels.shape[1] * ROWS), np.nan, np.float32)
    claims = int(grouping.used[0]) * claims_of(matrix)
    for item in random.permutation(claims):
        multiply_claim(tiles(), matrix, item, grouping, address(groups), address(groups), address(out), out[0].nbytes)
    exact = group_values(format_, group_of(format_, x), tokens)
    weights = [dequantised(format_, expert).astype(np.float64) for expert in stored]
    for token, rank in np.ndindex(chosen.shape):
        expert, found = chosen[token, rank], out[columns[token, rank]]
        bound = gamma(BLOCK + blocks) * (masses(format_, stored[expert]) @ np.abs(exact[token]))
        assert_within(found[:rows], weights[expert] @ exact[token], bound)
        assert not found[rows:].any()


def test_claims_cover_all_panels_and_are_large_enough_to_be_worth_it() -> None:
    for panels, panel_bytes in ((1, 544), (100, 544), (100, CLAIM_BYTES // 3), (7, CLAIM_BYTES * 2), (0, 544)):
        record = np.zeros(1, MATRIX)[0]
        record["panels"], record["panel_bytes"] = panels, panel_bytes
        each = panels_per_claim(record)
        assert each >= 1
        assert each * panel_bytes <= max(CLAIM_BYTES, panel_bytes)
        assert claims_of(record) == -(-panels // each)
