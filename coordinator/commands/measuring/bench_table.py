"""llama-bench's formats: Markdown, CSV, JSON and JSON lines, with its names and widths, and what numoe adds behind."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from numoe.coordinator.machine.model_file import read_metadata
from numoe.coordinator.measuring.cases import CaseResult
from numoe.coordinator.measuring.model_names import count_bytes, count_parameters, describe_model
from numoe.coordinator.measuring.peaks import operations_per_token
from numoe.coordinator.measuring.workers import MeasuredWorkers
from numoe.coordinator.settings import kv_types
from numoe.model.gguf.kv_types import HALF_FLOATS

USUAL_STEP_TOKENS = 512  # where llama-bench shows no column of them


@dataclass(frozen=True, slots=True)
class BenchFacts:
    """What stands in every row."""

    measured: MeasuredWorkers
    file: str
    model: str
    bytes: int
    parameters: int

    @classmethod
    def of(cls, path: Path | None, measured: MeasuredWorkers) -> BenchFacts:
        """What is known of a file, or of the packed folder of the settings, and of the workers that hold it."""
        spec, settings = measured.spec, measured.settings
        described = describe_model(read_metadata(path, settings), spec)
        return cls(measured, str(path or settings.model.packed), described, count_bytes(spec), count_parameters(spec))

    def fields(self, result: CaseResult) -> dict[str, Any]:
        """A row by llama-bench's names, and behind them ours."""
        engine, case = self.measured.settings.engine, result.case
        nanoseconds = [round(sample.seconds * 1e9) for sample in result.samples]
        mean = sum(nanoseconds) / len(nanoseconds)
        spread = sum((one - mean) ** 2 for one in nanoseconds) / max(1, len(nanoseconds) - 1)
        read, types = self.read_per_second(result), kv_types(engine)
        return {
            "build_commit": f"numoe {version('numoe')}",
            "build_number": 0,
            "cpu_info": self.measured.processor,
            "gpu_info": "",
            "backends": "CPU",
            "model_filename": self.file,
            "model_type": self.model,
            "model_size": self.bytes,
            "model_n_params": self.parameters,
            "n_batch": engine.step_tokens,
            "n_ubatch": engine.step_tokens,
            "n_threads": self.measured.threads,
            "type_k": types.keys.name.lower(),
            "type_v": types.values.name.lower(),
            "n_gpu_layers": 0,
            "flash_attn": True,
            "use_mmap": False,
            "embeddings": False,
            "n_prompt": case.prompt,
            "n_gen": case.generated,
            "n_depth": case.depth,
            "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "avg_ns": round(mean),
            "stddev_ns": round(spread**0.5),
            "avg_ts": result.speed,
            "stddev_ts": result.deviation,
            "n_streams": case.streams,
            "n_workers": self.measured.workers,
            "read_gb_per_second": read / 1e9,
            "fill": read / self.measured.peaks.bandwidth,
            "share_of_peak": self.operations_per_second(result) / self.measured.peaks.operations,
            "waiting": sum(sample.waiting for sample in result.samples) / len(result.samples),
            "samples_ns": nanoseconds,
            "samples_ts": result.speeds,
        }

    def read_per_second(self, result: CaseResult) -> float:
        """Bytes of weights, and of keys and values by decoded tokens, read per second."""
        spec, types = self.measured.spec, kv_types(self.measured.settings.engine)
        weights = sum(sample.weight_bytes for sample in result.samples)
        kv = result.case.kv_bytes(spec, types) * len(result.samples)
        return (weights + kv) / sum(sample.seconds for sample in result.samples)

    def operations_per_second(self, result: CaseResult) -> float:
        """Products and sums with weights per second; of prompts without the output's, which is computed once."""
        spec, case = self.measured.spec, result.case
        prompt = case.prompt * operations_per_token(spec, with_output=False)
        decode = case.generated * operations_per_token(spec, with_output=True)
        seconds = sum(sample.seconds for sample in result.samples) / len(result.samples)
        return case.streams * (prompt + decode) / seconds


class BenchTable(Protocol):
    """A format, written piece by piece."""

    def head(self) -> str:
        """What stands before all rows."""

    def row(self, result: CaseResult) -> str:
        """One row."""

    def foot(self) -> str:
        """What stands behind them, however many there are."""


def bench_table(output: str, facts: BenchFacts) -> BenchTable:
    """The table in one of the formats md, csv, json, jsonl."""
    kinds: Mapping[str, type[_Markdown] | type[_Csv] | type[_Json] | type[_JsonLines]] = {
        "md": _Markdown,
        "csv": _Csv,
        "json": _Json,
        "jsonl": _JsonLines,
    }
    return kinds[output](facts)


@dataclass(slots=True)
class _Markdown:
    facts: BenchFacts

    def head(self) -> str:
        cells, rule = [], []
        for name, width in self._columns():
            cells.append(_padded(name, width))
            rule.append("-" * (abs(width) - 1) + (":" if width > 0 else "-"))
        return f"| {' | '.join(cells)} |\n| {' | '.join(rule)} |\n"

    def row(self, result: CaseResult) -> str:
        facts, engine = self.facts, self.facts.measured.settings.engine
        decodes = result.case.generated and not result.case.prompt
        read, types = facts.read_per_second(result), kv_types(engine)
        values = {
            "model": facts.model,
            "size": _size(facts.bytes),
            "params": _parameters(facts.parameters),
            "backend": "CPU",
            "threads": str(facts.measured.threads),
            "n_ubatch": str(engine.step_tokens),
            "type_k": types.keys.name.lower(),
            "type_v": types.values.name.lower(),
            "test": result.case.name,
            "t/s": f"{result.speed:.2f} ± {result.deviation:.2f}",
            "GB/s": f"{read / 1e9:.1f}" if decodes else "",
            "fill": f"{read / facts.measured.peaks.bandwidth:.0%}" if decodes else "",
        }
        return f"| {' | '.join(_padded(values[name], width) for name, width in self._columns())} |\n"

    def foot(self) -> str:
        return f"\nbuild: numoe {version('numoe')}\n"

    def _columns(self) -> list[tuple[str, int]]:
        """Names and widths; negative: flush left."""
        engine = self.facts.measured.settings.engine
        return [
            ("model", -30),
            ("size", 10),
            ("params", 10),
            ("backend", -10),
            ("threads", 7),
            *([("n_ubatch", 8)] if engine.step_tokens != USUAL_STEP_TOKENS else []),
            *([("type_k", 6), ("type_v", 6)] if kv_types(engine) != HALF_FLOATS else []),
            ("test", 15),
            ("t/s", 20),
            ("GB/s", 6),
            ("fill", 5),
        ]


@dataclass(slots=True)
class _Csv:
    facts: BenchFacts
    _headed: bool = False

    def head(self) -> str:
        return ""  # with the first row, whose names it has

    def row(self, result: CaseResult) -> str:
        fields = {name: value for name, value in self.facts.fields(result).items() if not isinstance(value, list)}
        head = "" if self._headed else ",".join(fields) + "\n"
        self._headed = True
        return head + ",".join(_quoted(_plain(value)) for value in fields.values()) + "\n"

    def foot(self) -> str:
        return ""


@dataclass(slots=True)
class _Json:
    facts: BenchFacts
    _rows: int = 0

    def head(self) -> str:
        return "[\n"

    def row(self, result: CaseResult) -> str:
        lines = [f"    {json.dumps(name)}: {_value(value)}" for name, value in self.facts.fields(result).items()]
        before = ",\n" if self._rows else ""
        self._rows += 1
        return before + "  {\n" + ",\n".join(lines) + "\n  }"

    def foot(self) -> str:
        return "\n]\n"


@dataclass(slots=True)
class _JsonLines:
    facts: BenchFacts

    def head(self) -> str:
        return ""

    def row(self, result: CaseResult) -> str:
        fields = self.facts.fields(result).items()
        return "{" + ", ".join(f"{json.dumps(name)}: {_value(value)}" for name, value in fields) + "}\n"

    def foot(self) -> str:
        return ""


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[ {', '.join(_value(one) for one in value)} ]"
    return f"{value:.6f}" if isinstance(value, float) else json.dumps(value)


def _plain(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(int(value)) if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _padded(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"


def _parameters(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
