"""llama-sweep-bench's formats, to the letter, and what numoe adds behind each row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numoe.coordinator.measuring.peaks import operations_per_token
from numoe.coordinator.measuring.sweep import Sweep, SweepRow
from numoe.coordinator.measuring.workers import MeasuredWorkers
from numoe.coordinator.profiling.figures import group_shares
from numoe.coordinator.settings import kv_types
from numoe.model.planning.plan_size import kv_position_bytes

# Name and width; the first seven are llama-sweep-bench's.
COLUMNS: tuple[tuple[str, int], ...] = (
    *(("PP", 6), ("TG", 6), ("N_KV", 6), ("T_PP s", 8), ("S_PP t/s", 8), ("T_TG s", 8), ("S_TG t/s", 8)),
    *(("GB/s", 6), ("fill", 5), ("wait TG", 7), ("peak", 5), ("wait PP", 7)),
    *(("attn", 5), ("exps", 5), ("xchg", 5)),
)


SHOWN_GROUPS = ("attention", "experts", "exchanges")  # the last three columns


@dataclass(frozen=True, slots=True)
class SweepFacts:
    """What rows are worked out with."""

    measured: MeasuredWorkers
    sweep: Sweep

    def settings(self) -> dict[str, int]:
        """By llama-sweep-bench's names; a step is its micro-batch, and a larger batch does not exist here."""
        threads = self.measured.threads
        return {
            "n_kv_max": self.sweep.context,
            "n_batch": self.sweep.prompt,
            "n_ubatch": self.sweep.prompt,
            "flash_attn": 1,
            "n_gpu_layers": 0,
            "n_threads": threads,
            "n_threads_batch": threads,
        }

    def figures(self, row: SweepRow) -> dict[str, float]:
        """Times and speeds by llama-sweep-bench's names, and behind them ours: shares of 1, GB per second."""
        sweep, spec, peaks = self.sweep, self.measured.spec, self.measured.peaks
        types = kv_types(self.measured.settings.engine)
        seen = row.depth + sweep.generated / 2  # positions before a decoded token, on average
        kv_bytes = sweep.generated * seen * kv_position_bytes(spec, spec.kv_heads, types)
        read = (row.decode.weight_bytes + kv_bytes) / row.decode.seconds
        shares = {} if row.decode_profile is None else group_shares(row.decode_profile)
        computed = sweep.prompt * operations_per_token(spec, with_output=False) / row.prompt.seconds
        return {
            "t_pp": row.prompt.seconds,
            "speed_pp": sweep.prompt / row.prompt.seconds,
            "t_tg": row.decode.seconds,
            "speed_tg": sweep.generated / row.decode.seconds,
            "read_gb_per_second_tg": read / 1e9,
            "fill_tg": read / peaks.bandwidth,
            "waiting_tg": row.decode.waiting,
            "share_of_peak_pp": computed / peaks.operations,
            "waiting_pp": row.prompt.waiting,
            **{f"{group}_tg": share for group, share in shares.items()},
        }


class SweepTable(Protocol):
    """A format, written row by row."""

    def head(self) -> str:
        """What stands before all rows."""

    def row(self, row: SweepRow) -> str:
        """One row."""


def sweep_table(output_format: str, facts: SweepFacts) -> SweepTable:
    """The table in one of the formats table and jsonl."""
    kinds: Mapping[str, type[_Table] | type[_JsonLines]] = {"table": _Table, "jsonl": _JsonLines}
    return kinds[output_format](facts)


@dataclass(frozen=True, slots=True)
class _Table:
    facts: SweepFacts

    def head(self) -> str:
        said = ", ".join(f"{name} = {value}" for name, value in self.facts.settings().items())
        names = " | ".join(name.rjust(width) for name, width in COLUMNS)
        rule = "-|-".join("-" * width for _, width in COLUMNS)
        return f"\nmain: {said}\n\n|{names} |\n|{rule}-|\n"

    def row(self, row: SweepRow) -> str:
        sweep, found = self.facts.sweep, self.facts.figures(row)
        values = (
            f"{sweep.prompt}",
            f"{sweep.generated}",
            f"{row.depth}",
            f"{found['t_pp']:.3f}",
            f"{found['speed_pp']:.2f}",
            f"{found['t_tg']:.3f}",
            f"{found['speed_tg']:.2f}",
            f"{found['read_gb_per_second_tg']:.1f}",
            f"{found['fill_tg']:.0%}",
            f"{found['waiting_tg']:.1%}",
            f"{found['share_of_peak_pp']:.0%}",
            f"{found['waiting_pp']:.1%}",
            *(f"{found[f'{group}_tg']:.0%}" if f"{group}_tg" in found else "" for group in SHOWN_GROUPS),
        )
        cells = (value.rjust(width) for value, (_, width) in zip(values, COLUMNS, strict=True))
        return f"|{' | '.join(cells)} |\n"


@dataclass(frozen=True, slots=True)
class _JsonLines:
    facts: SweepFacts

    def head(self) -> str:
        return ""

    def row(self, row: SweepRow) -> str:
        sweep = self.facts.sweep
        fields: dict[str, Any] = {
            **self.facts.settings(),
            "pp": sweep.prompt,
            "tg": sweep.generated,
            "n_kv": row.depth,
            **self.facts.figures(row),
        }
        said = (
            f"{json.dumps(name)}: {value:.6f}" if isinstance(value, float) else f"{json.dumps(name)}: {value}"
            for name, value in fields.items()
        )
        return "{" + ", ".join(said) + " }\n"
