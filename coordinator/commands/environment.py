"""The environment variables that this project knows: a misspelt one is refused, as a misspelt flag is."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from cyclopts import App

from numoe.coordinator.access.credentials import KEY_VARIABLE
from numoe.protos.errors import SetupError

PREFIX = "NUMOE_"
# kernels/cpu/instruction_sets.py reads the first two; worker/placing/binding.py and its caller set the next two;
# a key, which clients read, is no flag, as anybody can list those of a process.
OF_NO_COMMAND = ("NUMOE_ISA", "NUMOE_AHEAD", "NUMOE_BINDING", "NUMOE_START_FAILURES", KEY_VARIABLE)


def refuse_misspelt(app: App, environment: Iterable[str]) -> None:
    """Raise SetupError for the name of a variable that begins with NUMOE_ and that no command reads.

    A name that is another command's is fine: one environment serves all of them.
    """
    ours = sorted(name for name in environment if name.startswith(PREFIX) and name not in OF_NO_COMMAND)
    if not ours:
        return  # without a look at the commands, which imports them all
    known = {*OF_NO_COMMAND, *_read_by_commands(app)}
    for name in ours:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            advice = f"did you mean {close[0]}?" if close else "`numoe serve --help` shows those that there are"
            raise SetupError(f"the environment sets {name}, which nothing reads: {advice}")


def _read_by_commands(app: App) -> Iterable[str]:
    for name, command in app.resolved_commands().items():
        if name.startswith("-"):
            continue  # --help and --version
        if command.default_command is None:  # a group of commands of two words
            yield from _read_by_commands(command)
            continue
        for argument in command.assemble_argument_collection():
            yield from argument.parameter.env_var or ()
            if command.config and argument.name != "*":  # "*" is a group of settings
                yield PREFIX + argument.name.lstrip("-").upper().replace("-", "_")
