"""`numoe bench`: llama-bench's measurements and table, by the workers that serve would start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from numoe.coordinator.commands.measuring.numbers import read_numbers, read_pairs
from numoe.coordinator.commands.options import HUB_OPTIONS, SERVE_SETTINGS, HubOptions
from numoe.coordinator.settings import ServeSettings, check_settings
from numoe.protos.errors import SetupError

Output = Literal["md", "csv", "json", "jsonl"]


def bench(
    model: Annotated[Path | None, Parameter(name=("--model", "-m"))] = None,
    *,
    n_prompt: Annotated[tuple[str, ...], Parameter(name=("--n-prompt", "-p"))] = ("512",),
    n_gen: Annotated[tuple[str, ...], Parameter(name=("--n-gen", "-n"))] = ("128",),
    pairs: Annotated[tuple[str, ...], Parameter(name=("--prompt-and-gen", "-pg"))] = (),
    n_depth: Annotated[tuple[str, ...], Parameter(name=("--n-depth", "-d"))] = ("0",),
    streams: Annotated[tuple[str, ...], Parameter(name=("--streams", "-np"))] = ("1",),
    repetitions: Annotated[int, Parameter(name=("--repetitions", "-r"))] = 5,
    output: Annotated[Output, Parameter(name=("--output", "-o"))] = "md",
    hub: HubOptions = HUB_OPTIONS,
    settings: ServeSettings = SERVE_SETTINGS,
    config: Path | None = None,
) -> None:
    """Measure how fast a model reads prompts and decodes, as llama-bench does, by the workers that serve would start.

    Lists are numbers with commas between, ranges such as 0-4096+1024 or 1-32*2, or the flag several times. Behind
    llama-bench's columns stand GB/s, what is read of weights, keys and values, and fill, its share of the memory's
    bandwidth, of decodes only.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split. Default: what --packed names, or the demo model.
    n_prompt
        Tokens of a prompt, timed alone; 0 for none.
    n_gen
        Tokens decoded one by one, timed alone; 0 for none.
    pairs
        Tokens of a prompt and of its answer, timed together: 512,128.
    n_depth
        Positions that are in the KV cache before.
    streams
        Sequences at once, as llama-batched-bench's -npl: decodes come after each prompt.
    repetitions
        Of each measurement.
    output
        Format of the table on standard output.
    hub
        As for serve.
    settings
        As for serve.
    config
        As for serve.
    """
    check_settings(settings)
    if repetitions < 1:
        raise SetupError(f"--repetitions is {repetitions}, expected at least 1")
    at_once = read_numbers("--streams", streams, least=1)
    # They bring numpy and structlog: 0.5 s, which `--help` and a refused flag do not wait for.
    from numoe.coordinator.commands.measuring.bench_table import BenchFacts, bench_table
    from numoe.coordinator.commands.measuring.running import Rows, find_model, loaded, remark
    from numoe.coordinator.measuring.cases import CaseResult, CaseRunner, list_cases, settings_for

    cases = list_cases(
        read_numbers("--n-prompt", n_prompt),
        read_numbers("--n-gen", n_gen),
        read_pairs("--prompt-and-gen", pairs),
        read_numbers("--n-depth", n_depth),
        at_once,
    )
    if not cases:
        raise SetupError("nothing is measured: expected tokens in one of --n-prompt, --n-gen and --prompt-and-gen")
    if max(at_once) > settings.engine.step_tokens:
        most = f"--step-tokens {settings.engine.step_tokens}, of which each decodes one"
        raise SetupError(f"--streams is {max(at_once)}, more than {most}")
    settings = replace(settings, engine=settings_for(cases, settings.engine))
    path = find_model(model, hub, settings)
    with loaded(path, settings) as measured, Rows(len(cases) * repetitions, "measuring") as rows:
        remark(measured.peaks.source)
        table = bench_table(output, BenchFacts.of(path, measured))
        rows.write(table.head())
        try:
            runner = CaseRunner(measured.steps(), cases)
            for case in cases:
                samples = []
                for sample in runner.run(case, repetitions):
                    samples.append(sample)
                    rows.advance()
                rows.write(table.row(CaseResult(case, tuple(samples))))
        finally:
            rows.write(table.foot())


def timeout(settings: ServeSettings) -> float:
    """Longest that one step may take, in seconds."""
    return settings.workers.step_timeout_seconds
