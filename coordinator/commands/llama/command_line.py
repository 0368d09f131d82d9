"""Reads a command line of llama.cpp's: its programs by our commands' names, its flags by ours."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from numoe.coordinator.commands.llama.flags import ALWAYS_ON, FLAGS, NO_MEANING, REFUSED, SWITCH_VALUES, flag_of
from numoe.protos.errors import SetupError

PROGRAMS = {
    "llama-server": "serve",
    "llama-sweep-bench": "sweep-bench",
    "llama-bench": "bench",
    "llama-perplexity": "perplexity",
}
OTHER_PROGRAMS = {
    "llama-cli": "serve the model with `numoe serve`, then talk to it with `numoe chat` in another terminal",
    "numactl": "put it in front: numactl ... numoe serve ...",
    "taskset": "put it in front: taskset ... numoe serve ...",
}
KINDS = (ALWAYS_ON, NO_MEANING, REFUSED)
HOST, PORT = "--host", "--port"
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", "50151"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What is read in place of what was typed, and what to tell whoever typed it."""

    words: list[str]
    answers: list[str]
    renamed: dict[str, str]  # our flags that stand for theirs, by ours


def named_command(words: Sequence[str]) -> list[str]:
    """The words, with one of our commands first where it was a program of theirs. Raises SetupError."""
    if not words:
        return []
    program = PurePath(words[0]).name
    if program in OTHER_PROGRAMS:
        raise SetupError(f"{program}: {OTHER_PROGRAMS[program]}")
    return [PROGRAMS.get(program, words[0]), *words[1:]]


def in_our_words(words: Sequence[str], own: Collection[str]) -> CommandLine:
    """Replace flags of theirs by ours; those in `own`, which the command has itself, are left alone.

    Raises SetupError for a flag that cannot be honoured, or whose value is missing.
    """
    read, answers, place, renamed = list[str](), list[str](), dict[str, str](), dict[str, str]()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, given = word.partition("=") if word.startswith("--") else (word, "", "")
        if word == "--":
            read += [word, *rest]
            break
        if name in own:
            read.append(word)
            continue
        if name in (HOST, PORT):
            place[name] = given if equals else _value(name, rest)
            continue
        flag = flag_of(name)
        if flag is None:
            read.append(word)
            continue
        if flag.takes == "perhaps" and not equals:
            value = rest.pop(0) if rest and rest[0] in SWITCH_VALUES else ""
        else:
            value = given if equals or flag.takes == "nothing" else _value(name, rest)
        ours = flag.ours(value) if flag.ours else []
        read += ours
        renamed |= {word: name for word in ours if word.startswith("--")}
        if flag.answer:
            answers.append(f"{name}: {flag.answer}")
    if place:
        read += ["--address", f"{place.get(HOST, DEFAULT_HOST)}:{place.get(PORT, DEFAULT_PORT)}"]
        renamed["--address"] = " ".join(place)
    return CommandLine(read, answers, renamed)


def _value(name: str, rest: list[str]) -> str:
    if not rest:
        raise SetupError(f"{name} needs a value")
    return rest.pop(0)


def help_text() -> str:
    """What stands below the help of a command that takes flags of theirs."""
    ours = {flag: shown for flag in FLAGS if (shown := flag.shown) not in KINDS}
    named = [f"{' '.join(flag.names)} ({shown})" for flag, shown in ours.items()]
    kinds = [f"{kind}: {', '.join(' '.join(flag.names) for flag in FLAGS if flag.shown == kind)}." for kind in KINDS]
    renamed = f"by another name: {', '.join(named)}, {HOST} {PORT} (--address)."
    return "\n\n".join(["Flags of llama.cpp and ik_llama.cpp are read too.", renamed, *kinds])
