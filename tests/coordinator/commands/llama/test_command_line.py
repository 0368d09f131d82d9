"""Command lines of llama.cpp's users are read as they mean them, or answered in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from numoe.coordinator.commands.llama.command_line import help_text, in_our_words, named_command
from numoe.coordinator.commands.llama.flags import FLAGS
from numoe.coordinator.commands.main import app
from numoe.protos.errors import SetupError

OWN = {"--address", "--kv-type", "--override-kv"}


def read(typed: str) -> str:
    return " ".join(in_our_words(typed.split(), OWN).words)


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("-m model.gguf", "model.gguf"),
        ("--model=model.gguf -np 4", "model.gguf --sequences 4"),
        ("-c 8192", "--context-tokens 8192 --kv-tokens 8192"),
        ("-c 0", f"--context-tokens {2**31 - 1}"),
        ("-Cr 0-9 --cpu-strict 1", "--cpus 0-9"),
        ("-C 0x50f", "--cpus 0,1,2,3,8,10"),
        ("-ctk q8_0 -ctv f16 -ser 6,1", "--cache-type-k q8_0 --cache-type-v f16 --smart-expert-reduction 6,1"),
        ("-ub 256 -b 2048", "--step-tokens 256"),
        ("-fa on model.gguf", "model.gguf"),
        ("-fa model.gguf", "model.gguf"),
        ("-rtr 1 -fmoe 1 --no-mmap -ngl 0 model.gguf", "model.gguf"),
        ("-ot exps=CPU,attn=CPU x", "x"),
        ("--rope-freq-scale 0.25", "--rope-scale 4.0"),
        ("--alias name", "--override-kv general.name=str:name"),
        ("--host 127.0.0.2 --port 8080", "--address 127.0.0.2:8080"),
        ("--port 8080", "--address 127.0.0.1:8080"),
        ("--host localhost x", "x --address localhost:50151"),
        ("--kv-type q8_0 --address a:1", "--kv-type q8_0 --address a:1"),
        ("x -- -fa", "x -- -fa"),
        ("--unknown -x", "--unknown -x"),
    ],
)
def test_what_they_type_becomes_what_we_read(typed: str, ours: str) -> None:
    assert read(typed) == ours


def test_flags_of_the_command_itself_are_left_alone() -> None:
    assert in_our_words(["-p", "512", "-c", "4096", "-fa", "1"], {"-p", "-c"}).words == ["-p", "512", "-c", "4096"]


def test_what_changes_nothing_is_answered_in_one_line_each() -> None:
    line = in_our_words(["-fa", "-rtr", "-b", "512", "-ngl", "0", "-cnv", "-c", "512"], OWN)
    assert [answer.partition(":")[0] for answer in line.answers] == ["-fa", "-rtr", "-b", "-ngl", "-cnv"]
    assert all("here: " in answer and "\n" not in answer for answer in line.answers)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("-C -3", "--cpu-mask is '-3', expected hexadecimal digits of at least one CPU, such as ff for CPUs 0 to 7"),
        ("-C 0x0", "--cpu-mask is '0x0', expected hexadecimal digits of at least one CPU"),
        ("-C zz", "--cpu-mask is 'zz', expected hexadecimal digits of at least one CPU"),
        ("-ngl 99", "cannot go to a GPU"),
        ("-ot exps=CUDA0", "tensors cannot go elsewhere"),
        ("-fa off", "always computed in pieces"),
        ("-n 100", "numoe generate --max-tokens"),
        ("--temp 0.7", "--temperature"),
        ("--context-shift", "ends where the context is full"),
        ("--rope-freq-scale 0", "a number above 0"),
        ("--chat-template chatml", "none is known by a name"),
        ("--chat-template-file /none", "cannot be read"),
        ("-c", "-c needs a value"),
        ("--host", "--host needs a value"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_reason(typed: str, said: str) -> None:
    with pytest.raises(SetupError, match=said) as refusal:
        read(typed)
    assert "\n" not in str(refusal.value)


def test_a_template_can_be_given_as_text_and_as_a_file(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (tmp_path / "chat.jinja").write_text(template)
    expected = ["--override-kv", f"tokenizer.chat_template=str:{template}"]
    assert in_our_words(["--chat-template", template], OWN).words == expected
    assert in_our_words(["--chat-template-file", str(tmp_path / "chat.jinja")], OWN).words == expected


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("./build/bin/llama-server -m x", "serve -m x"),
        ("llama-sweep-bench -c 1", "sweep-bench -c 1"),
        ("llama-bench", "bench"),
        ("llama-perplexity -f y", "perplexity -f y"),
        ("serve x", "serve x"),
        ("", ""),
    ],
)
def test_their_programs_are_our_commands(typed: str, command: str) -> None:
    assert " ".join(named_command(typed.split())) == command


@pytest.mark.parametrize("program", ["llama-cli", "./llama-cli", "numactl", "taskset"])
def test_programs_without_a_command_are_answered(program: str) -> None:
    with pytest.raises(SetupError, match=program.removeprefix("./")):
        named_command([program, "-m", "x"])


def ours_of(flag_values: Iterator[str]) -> set[str]:
    return {word for word in flag_values if word.startswith("--")}


def test_every_flag_that_is_read_in_place_of_theirs_exists() -> None:
    own = {name for argument in app["serve"].assemble_argument_collection() for name in argument.names}
    values = {"--rope-freq-scale": "0.5", "--chat-template": "{{ x }}", "-ngl": "0", "-ot": "a=CPU", "-fa": "on"}
    read = [
        word
        for flag in FLAGS
        if flag.ours and flag.shown != "refused with the reason" and flag.names[0] != "--chat-template-file"
        for word in flag.ours(values.get(flag.names[0], "1"))
    ]
    assert ours_of(iter(read)) <= own


def test_no_name_is_given_twice_and_the_help_names_every_one() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    assert len(set(names)) == len(names)
    assert all(name in help_text() for name in names)
