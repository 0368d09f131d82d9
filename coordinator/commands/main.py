"""The command `numoe`: its commands by name, their configuration file, and how a failure ends the process.

Each command is a function in a file of this folder that is imported when the command is called, and only then.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from cyclopts import App, Parameter
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Env, Toml

from numoe.coordinator.commands.environment import PREFIX, refuse_misspelt
from numoe.coordinator.commands.llama.command_line import help_text, in_our_words, named_command
from numoe.coordinator.commands.screen.terminal import (
    FAILED_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    SETUP_EXIT_CODE,
    err,
    show_error,
)
from numoe.protos.errors import NumoeError, SetupError

HELP_FLAGS = {"--help", "-h", "--version"}
FLAG = "flag"
_SOURCES = {"cli": FLAG, "env": "environment"}  # cyclopts' names for them
# They take flags of llama.cpp's.
LLAMA_COMMANDS = ("serve", "config", "plan", "bench", "sweep-bench", "perplexity", "profile")
GROUPS = {
    "host": "Several machines that serve a model together: see `numoe host start --help`.",
    "keys": "Keys of those who may ask a service: see `numoe serve --help`, --api-keys.",
}
_origins: dict[str, str] = {}
_answers: list[str] = []
_renamed: dict[str, str] = {}

app = App(
    name="numoe",
    help="Serves Mixture-of-Experts language models from GGUF files on CPUs.",
    version=lambda: version("numoe"),
    result_action="return_value",
    default_parameter=Parameter(negative=""),  # no --no-insecure: what is off by default stays off by not naming it
)


def main() -> None:
    """The console script."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines repeat, unreadably, what becomes one of ours
    # With it, processes that Ray forks while gRPC listens may abort: 3 of 16 starts failed, without it 0 of 24.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # latin-1 and ASCII lack most characters
    try:
        if not HELP_FLAGS & set(sys.argv):
            refuse_misspelt(app, os.environ)
        app(_in_our_words(sys.argv[1:]))
        if sys.stdout is not None:
            sys.stdout.flush()
    except SetupError as error:
        _end(str(error), SETUP_EXIT_CODE)
    except NumoeError as error:
        _end(str(error), FAILED_EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_EXIT_CODE)
    except OSError as error:
        _drop_output()
        if isinstance(error, BrokenPipeError):  # whoever read our output has seen enough
            sys.exit(FAILED_EXIT_CODE)
        _end(f"reading or writing failed: {error}", FAILED_EXIT_CODE)


def _in_our_words(words: list[str]) -> list[str]:
    """The words to read: those that were typed, or what they mean where they are llama.cpp's. Raises SetupError."""
    words = named_command(words)
    if not words or words[0] not in LLAMA_COMMANDS or HELP_FLAGS & set(words):
        return words
    own = {name for argument in app[words[0]].assemble_argument_collection() for name in argument.names}
    line = in_our_words(words[1:], own)
    _answers[:] = line.answers
    _renamed.update(line.renamed)
    if words[0] != "serve":  # which logs them
        for answer in line.answers:
            err().print(answer, style="dim")
    return [words[0], *line.words]


def flag_answers() -> tuple[str, ...]:
    """What there is to say of flags of llama.cpp's in this process's command line, a line each."""
    return tuple(_answers)


def _drop_output() -> None:
    """Lead standard output nowhere: what is left in its buffer would fail again when the process ends."""
    with suppress(OSError, ValueError, AttributeError):  # closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str, code: int) -> NoReturn:
    show_error(message)
    sys.exit(code)


def _read_config_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Lets the file named with --config, or in NUMOE_CONFIG, set what neither flag nor environment has set."""
    for argument in arguments:
        if argument.name == "--config":
            for token in argument.tokens:
                _check_readable(Path(token.value))
                Toml(token.value, use_commands_as_keys=False)(app, commands, arguments)


def _note_origins(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Asked last, when every setting that has a value got it from a flag, the environment or the file."""
    _origins.clear()  # of a command that was read before in this process
    for argument in arguments:
        for token in argument.tokens:
            name = argument.name.removeprefix("--").replace("-", "_")
            origin = _SOURCES.get(token.source, token.source)
            theirs = _renamed.get(argument.name) if origin == FLAG else None
            _origins[name] = f"{origin} {theirs}" if theirs else origin


def chosen_origins() -> MappingProxyType[str, str]:
    """Who chose each setting of this process's command that is no default.

    "flag", and behind it llama.cpp's name of it if that was typed, "environment", or a file's path.
    """
    return MappingProxyType(_origins)


def _check_readable(path: Path) -> None:
    if not path.is_file():
        raise SetupError(f"the configuration file {path} does not exist")


def _add_command(
    place: str, description: str, *, configured: bool = False, epilogue: str = "", group: str | None = None
) -> None:
    """Add the command at `place`, "file:function"; if `configured`, environment and --config set its flags too."""
    sources = [Env(PREFIX, command=False), _read_config_file, _note_origins] if configured else []
    of = app if group is None else _group(group)
    of.command(f"numoe.coordinator.commands.{place}", help=description, config=sources, help_epilogue=epilogue)


def _group(name: str) -> App:
    """The commands that have two words, of which the first is this."""
    if name not in app:
        app.command(App(name=name, help=GROUPS[name]))
    return app[name]


# Each description is that of the function's docstring: said here, `numoe --help` needs to import none of them.
_add_command("serve:serve", "Serve a model until Ctrl-C or SIGTERM.", configured=True, epilogue=help_text())
_add_command(
    "configuring.config:config",
    """Show the settings that `numoe serve` would have with the same words, environment and file, and who chose each.

    What serve would refuse of them is refused with the same line. A setting without a value is left to the service.
    """,
    configured=True,
)
_add_command("ask:generate", "Continue a text; the answer streams to standard output.")
_add_command("ask:chat", "Talk to the model; with TEXT one answer, without it a conversation.")
_add_command(
    "placement:rebalance",
    "Move whole experts between the workers of a running service, so that all compute equally much.",
)
_add_command(
    "operations:status", "Show how a running service is: its state, workers, memory, speeds and open requests."
)
_add_command("operations:top", "Show how a running service is, every second, until Ctrl-C or the service's end.")
_add_command(
    "operations:events",
    "Show what happened to a running service and what happens, until Ctrl-C or the service's end.",
)
_add_command(
    "plan:plan",
    """Show which worker would own which part of a model, whether it fits, and how fast it is predicted to be.

    What serve would refuse is refused with the same line and status 2, after what can be shown of it.
    """,
    configured=True,
)
_add_command(
    "measuring.bench:bench",
    """Measure how fast a model reads prompts and decodes, as llama-bench does, by the workers that serve would start.

    Lists are numbers with commas between, ranges such as 0-4096+1024 or 1-32*2, or the flag several times. Behind
    llama-bench's columns stand GB/s, what is read of weights, keys and values, and fill, its share of the memory's
    bandwidth, of decodes only.
    """,
    configured=True,
)
_add_command(
    "measuring.sweep_bench:sweep_bench",
    """Measure prompts and decodes at every depth of a context, as llama-sweep-bench does.

    Behind its columns stand, of the decode: GB/s, what is read of weights, keys and values; fill, its share of the
    memory's bandwidth; attn, exps and xchg, the shares of the time in steps that attention, experts and exchanges
    between workers take; wait, the share in which workers waited for each other. Of the prompt: peak, the share of the
    cores' integer peak, and wait. JSON lines have more digits.
    """,
    configured=True,
)
_add_command(
    "measuring.perplexity:perplexity",
    """Measure how well a model predicts a text, as llama-perplexity does.

    The text is cut into chunks of --ctx-size tokens; of each the second half counts. Perplexity is exp of the mean
    negative log-likelihood of a token, and its error that of the mean.
    """,
    configured=True,
)
_add_command(
    "measuring.profile:profile",
    """Show where the time of a step goes: by worker, thread, layer and phase, with waits and GB/s.

    Every thread notes what it does, in steps that are otherwise as always: their bits are the same, their time is less
    than 2 % longer. Waiting for threads is waiting for the others of a worker, waiting for workers that for others.
    GB/s are of weights, keys and values, while threads work on a phase or wait for each other. Skew is how much
    longer than the mean the thread works that works longest.
    """,
    configured=True,
)
_add_command(
    "measuring.load.load:load",
    """Measure what many clients at once get of a running service: throughput, time to the first token, gaps.

    Lengths of prompts and answers are mixed, and the same for the same seed; no two prompts begin alike. A gap is the
    time between two pieces of an answer, which are tokens unless they come very fast.
    """,
)
_add_command(
    "placement:placement",
    "Show where a served model lies: each worker's memory by NUMA node, layer by layer, and how it is bound.",
)
_add_command(
    "host:start",
    """Make this machine one of the hosts that serve a model together, until Ctrl-C or SIGTERM.

    On the first host `numoe host start --head`, on all others `--join` with the address that it tells, and with its
    token, a file that must be copied to them. Then `numoe serve --hosts auto` on the first one.
    """,
    configured=True,
    group="host",
)
_add_command(
    "host:certificates",
    """Write certificates by which hosts know each other, and an authority of your own where there is none yet.

    They live for 400 days: call it again with the same folder, copy what it writes, and start the hosts anew.
    """,
    group="host",
)
_add_command(
    "configuring.keys:add",
    "Make a key, write its hash into the file of keys, and show the key, which cannot be shown again.",
    group="keys",
)
_add_command("topology:topology", "Show the machine as the planner sees it: packages, NUMA nodes, cores, memory.")
_add_command(
    "doctor:doctor",
    """Look the machine over for what slows models down: settings, limits, memory, measured bandwidth.

    Every finding says what was found, what it costs and what mends it. The exit status is 0 without a problem, 1 with
    one; notes and warnings do not count.""",
    configured=True,
)
_add_command(
    "pack:pack",
    """Write a model in the form in which it is computed, for `numoe serve --packed FOLDER` to start from.

    It is packed for no number of workers or nodes, and holds all of the model: the file is not needed any more. Every
    part has a hash (BLAKE3), and is compared with it whenever it is loaded.
    """,
)
_add_command(
    "demo_model:demo_model",
    "Write the model that `numoe serve` serves by default, or with --shape one of any size with random weights.",
)
