"""The command `numoe`: serve a model, talk to a served one, look at machine, plan and demo model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, Parameter
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Env, Toml

from numoe.coordinator.commands.options import CallOptions, ServiceOptions, ShapeOptions
from numoe.coordinator.settings import KV_TYPES, ServeSettings, kv_tokens
from numoe.protos.errors import NumoeError, SetupError

if TYPE_CHECKING:  # grpc takes 0.2 s to import, Ray and numpy more: each command imports what it needs itself
    from numoe.coordinator.commands.client import Client
    from numoe.coordinator.workers.placement import LoadProgress
    from numoe.model.machine.topology import Topology

FAILED_EXIT_CODE, SETUP_EXIT_CODE, INTERRUPTED_EXIT_CODE = 1, 2, 130


def _config_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Lets the file named with --config, or in NUMOE_CONFIG, set what neither flag nor environment has set."""
    for argument in arguments:
        if argument.name == "--config":
            for token in argument.tokens:
                _check_readable(Path(token.value))
                Toml(token.value, use_commands_as_keys=False)(app, commands, arguments)


def _check_readable(path: Path) -> None:
    if not path.is_file():
        raise SetupError(f"the configuration file {path} does not exist")


app = App(
    name="numoe",
    help="Serves Mixture-of-Experts language models from GGUF files on CPUs.",
    version=lambda: version("numoe"),
    result_action="return_value",
    default_parameter=Parameter(negative=""),  # no --no-insecure: what is off by default stays off by not naming it
)


CALL_OPTIONS = CallOptions()
SERVICE_OPTIONS = ServiceOptions()
SHAPE_OPTIONS = ShapeOptions()
SERVE_SETTINGS = ServeSettings()
ROOT = Path("/")


@app.command(config=[Env("NUMOE_", command=False), _config_file])
def serve(
    model: Path | None = None, /, *, settings: ServeSettings = SERVE_SETTINGS, config: Path | None = None
) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split. Default: the demo model, made on first use.
    settings
        All other settings.
    config
        A TOML file with any of these settings, e.g. step_tokens = 512.
    """
    import asyncio
    import gc

    from numoe.coordinator.commands.terminal import LoadingView, show_ready
    from numoe.coordinator.logs import configure_logging
    from numoe.coordinator.process.life import Ready
    from numoe.coordinator.process.life import serve as serve_until_signal
    from numoe.coordinator.process.loading import load_model
    from numoe.coordinator.settings import check_settings

    check_settings(settings)
    configure_logging()
    with LoadingView() as view:
        path = model or _cached_demo_model(view)

        def announce(ready: Ready) -> None:
            gc.collect()
            gc.freeze()  # what is there now stays: looking through its 80,000 objects again held every request up 30 ms
            view.close()
            show_ready(ready)

        asyncio.run(serve_until_signal(settings, lambda report: load_model(path, settings, report), view, announce))


@app.command
def generate(text: str | None = None, /, *, options: CallOptions = CALL_OPTIONS, parse_special: bool = False) -> None:
    """Continue a text; the answer streams to standard output.

    Parameters
    ----------
    text
        The text to continue. Default: what standard input holds.
    options
        Which service, and how to draw.
    parse_special
        Let control tokens written in the text, such as <|im_end|>, become those tokens.
    """
    from numoe.coordinator.commands.terminal import stream_answer
    from numoe.v1.generation_pb2 import GenerateRequest

    request = GenerateRequest(
        text=sys.stdin.read() if text is None else text,
        parse_special=parse_special,
        sampling=options.sampling(),
        stopping=options.stopping(),
    )
    with _client(options) as client:
        stream_answer(client.generate(request))


@app.command
def chat(text: str | None = None, /, *, options: CallOptions = CALL_OPTIONS, system: str | None = None) -> None:
    """Talk to the model; with TEXT one answer, without it a conversation.

    Parameters
    ----------
    text
        What to say. Default: a conversation, each line of standard input a turn; /exit or Ctrl-D ends it.
    options
        Which service, and how to draw.
    system
        Instructions for the whole conversation. Default: what the model's template has.
    """
    from numoe.coordinator.commands.terminal import read_turns, stream_answer
    from numoe.v1.generation_pb2 import ChatMessage, ChatRequest

    messages = [ChatMessage(role="system", content=system)] if system else []
    with _client(options) as client:
        for said in read_turns() if text is None else [text]:
            messages.append(ChatMessage(role="user", content=said))
            request = ChatRequest(messages=messages, sampling=options.sampling(), stopping=options.stopping())
            # Ctrl-C ends an answer, and what there is of it stays in the conversation.
            answer = stream_answer(client.chat(request), keep_interrupted=text is None)
            messages.append(ChatMessage(role="assistant", content=answer))


@app.command
def rebalance(*, options: ServiceOptions = SERVICE_OPTIONS, drain: int | None = None) -> None:
    """Move whole experts between the workers of a running service, so that all compute equally much.

    Parameters
    ----------
    options
        Which service.
    drain
        A worker to empty of experts instead, so that its node can rest.
    """
    from numoe.coordinator.commands.terminal import out, show_moves
    from numoe.v1.placement_pb2 import RebalanceRequest

    with _client(options) as client:
        moves = show_moves(client.rebalance(RebalanceRequest(drain_worker=drain)))
    out().print(f"{moves} experts moved" if moves else "the experts lie well as they are")


@app.command(config=[Env("NUMOE_", command=False), _config_file])
def plan(
    model: Path,
    /,
    *,
    settings: ServeSettings = SERVE_SETTINGS,
    output: Path | None = None,
    root: Path = ROOT,
    config: Path | None = None,
) -> None:
    """Show which worker would own which part of a model, whether it fits, and how fast it is predicted to be.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split.
    settings
        As for serve.
    output
        Write the plan here too, to be read, edited and given to `numoe serve --plan-file`.
    root
        A folder with a copy of another machine's /sys and /proc, to plan for that machine instead.
    config
        As for serve.
    """
    from numoe.coordinator.commands.tables.forecast import describe_choice
    from numoe.coordinator.commands.tables.plan import describe_plan
    from numoe.coordinator.commands.terminal import out
    from numoe.coordinator.machine.model_file import read_spec
    from numoe.coordinator.machine.planning import decide_plan
    from numoe.coordinator.settings import check_settings
    from numoe.model.planning.plan_file import to_toml

    check_settings(settings)
    spec, topology = read_spec(model), _read_machine(root)
    made = decide_plan(spec, topology, settings)
    positions = kv_tokens(settings.engine, spec.context_length)
    kv_type = KV_TYPES[settings.engine.kv_type]
    out().print(describe_plan(made.plan, spec, topology, positions, kv_type))
    out().print(describe_choice(made.choice, spec, made.speeds, made.stats))
    if output is not None:
        _write_text(output, to_toml(made.plan))


@app.command
def placement(*, options: ServiceOptions = SERVICE_OPTIONS) -> None:
    """Show where a served model lies: each worker's memory by NUMA node, layer by layer, and how it is bound.

    Parameters
    ----------
    options
        Which service.
    """
    from numoe.coordinator.commands.tables.placement import describe_placement
    from numoe.coordinator.commands.terminal import out

    with _client(options) as client:
        out().print(describe_placement(client.placement()))


@app.command
def topology(*, root: Path = ROOT) -> None:
    """Show the machine as the planner sees it: packages, NUMA nodes, cores, memory.

    Parameters
    ----------
    root
        A folder with a copy of another machine's /sys and /proc, to show that machine instead.
    """
    from numoe.coordinator.commands.tables.topology import describe_topology
    from numoe.coordinator.commands.terminal import out

    out().print(describe_topology(_read_machine(root)))


@app.command(config=[Env("NUMOE_", command=False), _config_file])
def doctor(
    model: Path | None = None,
    /,
    *,
    settings: ServeSettings = SERVE_SETTINGS,
    measure: Annotated[bool, Parameter(negative="--no-measure")] = True,
    root: Path = ROOT,
    config: Path | None = None,
) -> None:
    """Look the machine over for what slows models down: settings, limits, memory, measured bandwidth.

    Every finding says what was found, what it costs and what mends it. The exit status is 0 without a problem, 1 with
    one; notes and warnings do not count.

    Parameters
    ----------
    model
        A GGUF file, to look whether its plan fits too, and how fast memory lets it be.
    settings
        As for serve.
    measure
        Read every node's memory with all cores for some seconds. Without it, the last measurement counts.
    root
        A folder with a copy of another machine's /sys and /proc, to judge that machine instead; nothing is measured.
    config
        As for serve.
    """
    from numoe.coordinator.commands.tables.doctor import describe_checkup
    from numoe.coordinator.commands.terminal import LoadingView, out
    from numoe.coordinator.machine.checkup import examine

    with LoadingView() as view:
        checkup = examine(_read_machine(root), root, model, settings, measure, lambda phase: view(phase, 0, 0))
    out().print(describe_checkup(checkup))
    if checkup.failed:
        sys.exit(FAILED_EXIT_CODE)


@app.command(name="demo-model")
def demo_model(path: Path | None = None, /, *, shape: ShapeOptions = SHAPE_OPTIONS) -> None:
    """Write the model that `numoe serve` serves by default, or with --shape one of any size with random weights.

    Parameters
    ----------
    path
        Where to. Default: the cache, where serve looks for it; needed with --shape.
    shape
        Of a model with random weights.
    """
    from numoe.coordinator.commands.terminal import LoadingView, out

    if shape.shape is None and shape != SHAPE_OPTIONS:
        raise SetupError("sizes are given without --shape: the default demo model has its own")
    with LoadingView() as view:
        if shape.shape is not None:
            if path is None:
                raise SetupError("--shape needs a PATH to write to")
            written = _write_synthetic_model(path, shape, view)
        else:
            written = _cached_demo_model(view) if path is None else _write_demo_model(path, view)
    out().print(str(written))


def main() -> None:
    """The console script."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines repeat, unreadably, what becomes one of ours
    # With it, processes that Ray forks while gRPC listens may abort: 3 of 16 starts failed, without it 0 of 24.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        app(sys.argv[1:])
    except SetupError as error:
        _end(str(error), SETUP_EXIT_CODE)
    except NumoeError as error:
        _end(str(error), FAILED_EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED_EXIT_CODE)


def _end(message: str, code: int) -> NoReturn:
    from numoe.coordinator.commands.terminal import show_error

    show_error(message)
    sys.exit(code)


@contextmanager
def _client(options: ServiceOptions) -> Iterator[Client]:
    from numoe.coordinator.commands.client import CallError, Client

    try:
        with Client(options.address, options.timeout_seconds) as client:
            yield client
    except CallError as error:
        _end(str(error), FAILED_EXIT_CODE)


def _cached_demo_model(progress: LoadProgress) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(cache) / "numoe" / "demo.gguf"
    return path if path.exists() else _write_demo_model(path, progress)


def _write_demo_model(path: Path, progress: LoadProgress) -> Path:
    from numoe.model.made_up.demo import write_demo_model

    _make_folder_of(path)
    write_demo_model(path, lambda done, total: progress("making the demo model", done, total))
    return path


def _write_synthetic_model(path: Path, options: ShapeOptions, progress: LoadProgress) -> Path:
    from numoe.model.made_up.synthetic import write_synthetic_model

    _make_folder_of(path)
    shape = options.synthetic()
    assert shape is not None

    def report(done: int, total: int) -> None:
        progress("writing", done, total)

    write_synthetic_model(path, shape, options.weights_seed, report, header_only=options.header_only)
    return path


def _read_machine(root: Path) -> Topology:
    from numoe.model.machine.topology import read_topology

    if not (root / "sys/devices/system").is_dir() and not (root / "proc").is_dir():
        raise SetupError(f"{root} holds no copy of a machine: expected folders sys/devices/system and proc in it")
    return read_topology(root)


def _make_folder_of(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{path.parent} cannot be made: {error.strerror}") from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}") from error
