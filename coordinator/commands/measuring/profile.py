"""`numoe profile`: where the time of a step goes, of a model or of a running service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from numoe.coordinator.access.credentials import Credentials
from numoe.coordinator.commands.options import HUB_OPTIONS, SERVE_SETTINGS, HubOptions, ServiceOptions
from numoe.coordinator.settings import ServeSettings, check_settings
from numoe.protos.errors import ServiceError, SetupError

if TYPE_CHECKING:
    from numoe.protos.profile import Profile

OutputFormat = Literal["table", "json"]
MOST_SECONDS = 600.0
TIMEOUT_SECONDS = 60.0  # for the answer, beyond the time that is profiled


def profile(
    model: Annotated[Path | None, Parameter(name=("--model", "-m"))] = None,
    *,
    n_gen: Annotated[int, Parameter(name=("--n-gen", "-n"))] = 128,
    n_prompt: Annotated[int, Parameter(name=("--n-prompt", "-p"))] = 0,
    n_depth: Annotated[int, Parameter(name=("--n-depth", "-d"))] = 0,
    server: str | None = None,
    key_file: Path | None = None,
    tls_ca: str | None = None,
    seconds: float = 10.0,
    steps: int = 0,
    output_format: OutputFormat = "table",
    html: Path | None = None,
    trace: Path | None = None,
    hub: HubOptions = HUB_OPTIONS,
    settings: ServeSettings = SERVE_SETTINGS,
    config: Path | None = None,
) -> None:
    """Show where the time of a step goes: by worker, thread, layer and phase, with waits and GB/s.

    Every thread notes what it does, in steps that are otherwise as always: their bits are the same, their time is less
    than 2 % longer. Waiting for threads is waiting for the others of a worker, waiting for workers that for others.
    GB/s are of weights, keys and values, while threads work on a phase or wait for each other. Skew is how much
    longer than the mean the thread works that works longest.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split. Default: what --packed names, or the demo model.
    n_gen
        Tokens decoded one by one.
    n_prompt
        Tokens of a prompt, profiled instead of a decode.
    n_depth
        Positions that are in the KV cache before.
    server
        The address of a running service whose steps are profiled, instead of a model of one's own.
    key_file
        A file with the key that the service asks for. Default: the variable NUMOE_KEY.
    tls_ca
        Talk encrypted to the service, as for status.
    seconds
        Of a running service: how long, to 600.
    steps
        Of a running service: end after so many steps, if they come earlier. 0: do not.
    output_format
        What is written to standard output.
    html
        Write a page with the time line of the last step into this file; it needs nothing else, no network.
    trace
        Write the same time line in Chrome's trace format, for chrome://tracing and ui.perfetto.dev.
    hub
        As for serve.
    settings
        As for serve.
    config
        As for serve.
    """
    check_settings(settings)
    _check(model, server, seconds, steps, {"--n-gen": n_gen, "--n-prompt": n_prompt, "--n-depth": n_depth})
    # They bring numpy and structlog: 0.5 s, which `--help` and a refused flag do not wait for.
    from numoe.coordinator.commands.measuring.profile_export import page_of, trace_of
    from numoe.coordinator.commands.measuring.profile_tables import describe_profile, profile_json
    from numoe.coordinator.commands.measuring.running import Rows, check_folder
    from numoe.coordinator.commands.screen.terminal import out

    for flag, path in (("--html", html), ("--trace", trace)):
        if path is not None:
            check_folder(flag, path)
    if server is not None:
        title, found = _of_service(server, Credentials(key_file, tls_ca), seconds, steps)
    else:
        title, found = _of_model(model, hub, settings, (n_prompt, 0 if n_prompt else n_gen, n_depth))
    if not found.steps:
        raise ServiceError("no step was run meanwhile; ask the service for something while it is profiled")
    for path, text in ((html, page_of), (trace, trace_of)):
        if path is not None:
            path.write_text(text(title, found), encoding="utf-8")
    if output_format == "json":
        Rows().write(profile_json(title, found))
    else:
        out().print(describe_profile(title, found))


def _check(model: Path | None, server: str | None, seconds: float, steps: int, counts: dict[str, int]) -> None:
    for flag, number in counts.items():
        if not 0 <= number < 2**31:
            raise SetupError(f"{flag} is {number}, expected at least 0")
    if not counts["--n-gen"] and not counts["--n-prompt"]:
        raise SetupError("nothing is profiled: expected tokens in one of --n-gen and --n-prompt")
    if not 0 < seconds <= MOST_SECONDS:
        raise SetupError(f"--seconds is {seconds:g}, expected more than 0, at most {MOST_SECONDS:.0f}")
    if not 0 <= steps < 2**31:
        raise SetupError(f"--steps is {steps}, expected at least 0")
    if server is not None and model is not None:
        raise SetupError("expected a model or --server, not both: a service is profiled with the model that it serves")


def _of_service(address: str, credentials: Credentials, seconds: float, steps: int) -> tuple[str, Profile]:
    """The profile of a running service. Raises CallError."""
    from numoe.coordinator.commands.measuring.served_profile import read_profile

    with ServiceOptions(address, seconds + TIMEOUT_SECONDS, credentials).connect("--server") as client:
        name = client.status().service.model
        return f"{name}, served at {address}", read_profile(client.profile(seconds, steps))


def _of_model(
    model: Path | None, hub: HubOptions, settings: ServeSettings, counts: tuple[int, int, int]
) -> tuple[str, Profile]:
    """The profile of a prompt, a decode, or none of so many tokens, after so many others, on workers of its own."""
    from numoe.coordinator.commands.measuring.running import find_model, loaded
    from numoe.coordinator.measuring.cases import Case, settings_for
    from numoe.coordinator.measuring.profiled import profile_steps

    case = Case(*counts)
    settings = replace(settings, engine=settings_for([case], settings.engine))
    with loaded(find_model(model, hub, settings), settings) as measured:
        return f"{measured.spec.name}, {case.name}", profile_steps(measured, *counts)
