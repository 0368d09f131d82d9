"""Whatever surrounds a command, it ends with a line and an exit code: never a traceback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from numoe.coordinator.commands.main import main
from tests.coordinator.commands.numoe_process import NUMOE, PATIENCE_SECONDS

COMMANDS = {
    "generate": "generate Hello --max-tokens 4 --address ADDRESS",
    "chat": "chat Hello --max-tokens 4 --address ADDRESS",
    "conversation": "chat --max-tokens 4 --address ADDRESS <<< Hello",
    "placement": "placement --address ADDRESS",
    "rebalance": "rebalance --address ADDRESS",
    "topology": "topology",
    "plan": "plan MODEL --workers 2 --bandwidth 50",
    "doctor": "doctor --no-measure",
    "demo-model": "demo-model NEW --shape llama --header-only",
    "help": "--help",
}

AROUND = (">/dev/full 2>/dev/full", "<&- >&-")
# No folder to stand in, no home, a terminal and a language that nobody knows, one column.
NOWHERE = 'cd "$(mktemp -d)"; rmdir "$PWD"; unset HOME; export TERM=none COLUMNS=1 LC_ALL=none XDG_CACHE_HOME=FOLDER;'
Runs = Mapping[tuple[str, str], Future[subprocess.CompletedProcess[bytes]]]  # by command and surrounding


def run(arguments: str, around: str = "", before: str = "") -> subprocess.CompletedProcess[bytes]:
    script = f"{before} exec {NUMOE} {arguments} {around}"
    return subprocess.run(["bash", "-c", script], capture_output=True, timeout=PATIENCE_SECONDS, check=False)


def filled(name: str, address: str, model: Path, folder: Path) -> str:
    """A command's words, with what they stand for."""
    words = {"ADDRESS": address, "MODEL": str(model), "NEW": str(folder / "new.gguf")}
    return " ".join(words.get(word, word) for word in COMMANDS[name].split())


@pytest.fixture(scope="module")
def runs(address: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Every command in every surrounding, as many at once as there are CPUs: each is a second of imports."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def start(name: str, around: str = "", before: str = "") -> Future[subprocess.CompletedProcess[bytes]]:
            folder = tmp_path_factory.mktemp(name)
            arguments = filled(name, address, model, folder)
            return pool.submit(run, arguments, around, before.replace("FOLDER", str(folder)))

        yield {
            **{(name, around): start(name, around) for around in AROUND for name in COMMANDS},
            **{(name, NOWHERE): start(name, before=NOWHERE) for name in COMMANDS},
        }


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_stumbles_over_its_streams(name: str, around: str, runs: Runs) -> None:
    done = runs[name, around].result()
    assert done.returncode in (0, 1, 2), done
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert done.stderr.count(b"error: ") <= 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_works_from_nowhere(name: str, runs: Runs) -> None:
    done = runs[name, NOWHERE].result()
    assert b"Traceback" not in done.stderr
    split_by_row = name == "rebalance"  # the tiny model is, so that there is nothing to move
    assert done.returncode == split_by_row, done
    assert done.stderr.count(b"error: ") == split_by_row


def test_a_full_disk_is_told_in_one_line(address: str) -> None:
    done = run(f"generate Hello --max-tokens 4 --address {address}", ">/dev/full")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_characters_that_the_output_lacks_are_replaced(encoding: str, address: str, model: Path) -> None:
    for arguments in (f"generate Hello --max-tokens 20 --address {address}", f"plan {model} --workers 2", "topology"):
        done = run(arguments, before=f"export PYTHONIOENCODING={encoding};")
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "generate $'a\\xff'",
        "generate Hello --stop $'a\\xff'",
        "generate <<< $'a\\xff'",
        "generate <&-",
        "chat $'a\\xff'",
        "chat Hello --system $'a\\xff'",
        "chat <&-",
    ],
)
def test_what_is_no_text_is_refused_in_one_line(arguments: str, address: str) -> None:
    done = run(f"{arguments} --address {address}", before="export PYTHONUTF8=1;")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


def test_a_line_that_is_no_text_does_not_end_a_conversation(address: str) -> None:
    said = f"chat --max-tokens 4 --address {address} <<< $'Hello\\na\\xff\\nthe'"
    done = run(said, before="export PYTHONUTF8=1;")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"it was not sent") == 1
    assert len(done.stdout.split(b"> ")) == 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("generate a --max-tokens -1", "--max-tokens is -1, expected 0 or more"),
        ("generate a --max-tokens 4294967296", "--max-tokens is 4294967296, expected 0 or more and at most 4294967295"),
        ("generate a --top-k -1", "--top-k is -1"),
        ("generate a --seed -1", "--seed is -1"),
        ("generate a --timeout-seconds nan", "--timeout-seconds is nan, expected more than 0 and finite"),
        ("chat a --seed 18446744073709551616", "--seed is 18446744073709551616"),
        ("rebalance --drain -1", "--drain is -1"),
        ("demo-model m.gguf --shape llama --layers -3", "--layers is -3, expected more than 0"),
        ("demo-model m.gguf --shape llama --weights-seed -1", "--weights-seed is -1"),
        ("plan m.gguf --bandwidth nan", "--bandwidth is [nan]"),
        ("plan m.gguf --batch 99999999999999999999", "--batch is 99999999999999999999"),
        ("doctor --batch 0", "--batch is 0"),
        (
            "serve m.gguf --message-bytes 99999999999",
            "--message-bytes is 99999999999, expected more than 0 and at",
        ),
    ],
)
def test_a_number_that_nobody_can_mean_is_refused_by_its_flag(
    arguments: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["numoe", *arguments.split()])
    with pytest.raises(SystemExit) as raised:
        main()
    shown = capsys.readouterr().err
    assert raised.value.code == 2
    assert shown.startswith(f"error: {expected}")
    assert shown.count("\n") == 1
