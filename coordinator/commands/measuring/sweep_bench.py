"""`numoe sweep-bench`: llama-sweep-bench's procedure and table, by the workers that serve would start."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from numoe.coordinator.commands.options import HUB_OPTIONS, SERVE_SETTINGS, HubOptions
from numoe.coordinator.settings import DEFAULT_CONTEXT_TOKENS, ServeSettings, check_settings
from numoe.protos.errors import SetupError

OutputFormat = Literal["table", "jsonl"]


def sweep_bench(
    model: Annotated[Path | None, Parameter(name=("--model", "-m"))] = None,
    *,
    ctx_size: Annotated[int | None, Parameter(name=("--ctx-size", "-c"))] = None,
    ubatch_size: Annotated[int | None, Parameter(name=("--ubatch-size", "-ub"))] = None,
    n_predict: Annotated[int | None, Parameter(name=("--n-predict", "-n"))] = None,
    sweep_stride: int = 1,
    warmup_batch: Annotated[bool, Parameter(name=("--warmup-batch", "-wb"))] = False,
    output_format: OutputFormat = "table",
    plot: Path | None = None,
    hub: HubOptions = HUB_OPTIONS,
    settings: ServeSettings = SERVE_SETTINGS,
    config: Path | None = None,
) -> None:
    """Measure prompts and decodes at every depth of a context, as llama-sweep-bench does.

    Behind its columns stand, of the decode: GB/s, what is read of weights, keys and values; fill, its share of the
    memory's bandwidth; attn, exps and xchg, the shares of the time in steps that attention, experts and exchanges
    between workers take; wait, the share in which workers waited for each other. Of the prompt: peak, the share of the
    cores' integer peak, and wait. JSON lines have more digits.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split. Default: what --packed names, or the demo model.
    ctx_size
        Positions to sweep. Default: as for serve, the model's context, at most 8192.
    ubatch_size
        Tokens of each prompt, and the most in one step. Default: --step-tokens.
    n_predict
        Tokens decoded at each depth. Default: a quarter of --ubatch-size.
    sweep_stride
        Measure every so many rows.
    warmup_batch
        Run a prompt before measuring.
    output_format
        What is written to standard output.
    plot
        Draw speeds over N_KV into this picture, PNG or SVG by its name; needs numoe[plot].
    hub
        As for serve.
    settings
        As for serve.
    config
        As for serve.
    """
    check_settings(settings)
    for flag, number in (
        ("--ctx-size", ctx_size),
        ("--ubatch-size", ubatch_size),
        ("--n-predict", n_predict),
        ("--sweep-stride", sweep_stride),
    ):
        if number is not None and not 0 < number < 2**31:
            raise SetupError(f"{flag} is {number}, expected at least 1")
    # They bring numpy and structlog: 0.5 s, which `--help` and a refused flag do not wait for.
    from numoe.coordinator.commands.measuring.running import Rows, check_folder, find_model, loaded, remark
    from numoe.coordinator.commands.measuring.sweep_table import SweepFacts, sweep_table
    from numoe.coordinator.machine.model_file import read_spec
    from numoe.coordinator.measuring.profiled import profile_times
    from numoe.coordinator.measuring.sweep import Sweep, SweepRow, run_sweep

    if plot is not None:
        check_folder("--plot", plot)
        from numoe.coordinator.commands.measuring.plot import draw_sweep, refuse_without_matplotlib

        refuse_without_matplotlib(plot)
    path = find_model(model, hub, settings)
    context = (
        ctx_size
        or settings.engine.context_tokens
        or min(DEFAULT_CONTEXT_TOKENS, read_spec(path, settings).context_length)
    )
    step_tokens = ubatch_size or settings.engine.step_tokens
    sweep = Sweep(context, step_tokens, n_predict or max(1, step_tokens // 4), sweep_stride)
    engine = replace(
        settings.engine,
        step_tokens=step_tokens,
        prefill_chunk=None,
        sequences=1,
        context_tokens=sweep.length,
        kv_tokens=sweep.length,
    )
    settings = replace(settings, engine=engine)
    done: list[SweepRow] = []
    with loaded(path, settings) as measured, Rows(len(sweep.depths), "sweeping") as rows:
        remark(measured.peaks.source)
        table = sweep_table(output_format, SweepFacts(measured, sweep))
        rows.write(table.head())
        steps = measured.steps()
        try:
            for row in run_sweep(sweep, steps, warm_prompt=warmup_batch, profile=partial(profile_times, measured)):
                done.append(row)  # first: who sees a row finds it in the picture, whenever they interrupt
                rows.write(table.row(row))
                rows.advance()
        finally:
            if plot is not None and done:  # of an interrupted sweep, what there is
                draw_sweep(plot, f"{measured.spec.name}, {measured.threads} threads", sweep, done)
