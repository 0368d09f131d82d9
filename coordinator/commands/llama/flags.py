"""The flags of llama.cpp and ik_llama.cpp, as their users type them, and what becomes of each.

A flag is one of ours by another name, or is answered in one line: it is always on here, or has no meaning here. One
that asks for what is not done here is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from numoe.protos.errors import SetupError

Takes = Literal["nothing", "a value", "perhaps"]  # perhaps: a switch, which a value may follow

ALWAYS_ON, NO_MEANING, REFUSED = "always on here", "without a meaning here", "refused with the reason"
ON, OFF, AUTO = ("1", "on", "true"), ("0", "off", "false"), ("auto",)
SWITCH_VALUES = (*ON, *OFF, *AUTO)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of theirs."""

    names: tuple[str, ...]
    takes: Takes
    ours: Callable[[str], list[str]] | None = None  # what to read in its place; raises SetupError
    answer: str = ""  # what to say, where nothing is read in its place
    shown: str = ""  # in the help: what it becomes


def _renamed(names: tuple[str, ...], ours: str) -> Flag:
    return Flag(names, "a value", lambda value: [ours, value], shown=ours)


def _always(names: tuple[str, ...], why: str, takes: Takes = "perhaps") -> Flag:
    return Flag(names, takes, answer=f"always so here: {why}", shown=ALWAYS_ON)


def _without_meaning(names: tuple[str, ...], why: str, takes: Takes) -> Flag:
    return Flag(names, takes, answer=f"no meaning here: {why}", shown=NO_MEANING)


def _refused(names: tuple[str, ...], why: str, takes: Takes) -> Flag:
    def refuse(_: str) -> list[str]:
        raise SetupError(f"{names[0]}: {why}")

    return Flag(names, takes, refuse, shown=REFUSED)


def _context(value: str) -> list[str]:
    if value == "0":  # the model's own
        return ["--context-tokens", str(2**31 - 1)]
    return ["--context-tokens", value, "--kv-tokens", value]


def _cpus_of_mask(value: str) -> list[str]:
    expected = "expected hexadecimal digits of at least one CPU, such as ff for CPUs 0 to 7"
    try:
        mask = int(value, 16)
    except ValueError as error:
        raise SetupError(f"--cpu-mask is {value!r}, {expected}") from error
    if mask <= 0:
        raise SetupError(f"--cpu-mask is {value!r}, {expected}")
    return ["--cpus", ",".join(str(cpu) for cpu in range(mask.bit_length()) if mask >> cpu & 1)]


def _no_gpu(value: str) -> list[str]:
    if value.strip() not in ("0", "auto"):
        raise SetupError(f"-ngl {value}: this engine computes on CPUs, layers cannot go to a GPU; leave it away")
    return []


def _tensors_on_cpu(value: str) -> list[str]:
    if any(not part.endswith("=CPU") for part in value.split(",")):
        raise SetupError(f"-ot {value}: this engine computes on CPUs, tensors cannot go elsewhere; leave it away")
    return []


def _flash_attention(value: str) -> list[str]:
    if value in OFF:
        raise SetupError("-fa off: attention is always computed in pieces here, there is no other; leave it away")
    return []


def _frequency_scale(value: str) -> list[str]:
    try:
        return ["--rope-scale", repr(1.0 / float(value))]
    except (ValueError, ZeroDivisionError) as error:
        raise SetupError(f"--rope-freq-scale is {value!r}, expected a number above 0") from error


def _template(value: str) -> list[str]:
    if "{" not in value:
        raise SetupError(f"--chat-template {value}: expected the text of a template, none is known by a name here")
    return ["--override-kv", f"tokenizer.chat_template=str:{value}"]


def _template_file(value: str) -> list[str]:
    try:
        return _template(Path(value).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--chat-template-file {value} cannot be read: {error}") from error


_ASKED_FOR = "requests say it here: numoe generate {}, or the same field of a client's request"
_NO_GPU = "all is on the CPU"

FLAGS = (
    Flag(("-m", "--model"), "a value", lambda value: [value], shown="MODEL"),
    Flag(("-c", "--ctx-size"), "a value", _context, shown="--context-tokens and --kv-tokens"),
    _renamed(("-t", "--threads"), "--threads"),
    _renamed(("-Cr", "--cpu-range"), "--cpus"),
    Flag(("-C", "--cpu-mask"), "a value", _cpus_of_mask, shown="--cpus"),
    _renamed(("-ub", "--ubatch-size"), "--step-tokens"),
    _renamed(("-np", "--parallel"), "--sequences"),
    _renamed(("--ssl-key-file",), "--tls-key"),
    _renamed(("--ssl-cert-file",), "--tls-certificate"),
    _renamed(("-ctk",), "--cache-type-k"),
    _renamed(("-ctv",), "--cache-type-v"),
    _renamed(("-ser",), "--smart-expert-reduction"),
    Flag(("-khad",), "nothing", lambda _: ["--k-cache-hadamard"], shown="--k-cache-hadamard"),
    Flag(("--rope-freq-scale",), "a value", _frequency_scale, shown="--rope-scale"),
    Flag(
        ("-a", "--alias"),
        "a value",
        lambda value: ["--override-kv", f"general.name=str:{value}"],
        shown="--override-kv general.name",
    ),
    Flag(("--chat-template",), "a value", _template, shown="--override-kv tokenizer.chat_template"),
    Flag(("--chat-template-file",), "a value", _template_file, shown="--override-kv tokenizer.chat_template"),
    Flag(("-fa", "--flash-attn"), "perhaps", _flash_attention, "always so here: attention runs in pieces", ALWAYS_ON),
    _always(("-rtr", "--run-time-repack"), "weights are laid out for the kernels while they are loaded"),
    _always(("-fmoe", "--fused-moe", "--fused-moe-up-gate"), "gate, up and the activation between are one pass"),
    _always(("--no-mmap",), "weights are copied to the memory of the node that computes with them", "nothing"),
    _always(("-cb", "--cont-batching"), "requests join and leave a running batch", "nothing"),
    _always(("--cache-prompt",), "what prompts begin with alike is run once, for all requests", "nothing"),
    Flag(("--no-cache-prompt",), "nothing", lambda _: ["--prefix-cache", "off"], shown="--prefix-cache off"),
    _always(("--jinja",), "conversations are rendered by the model's own template", "nothing"),
    _always(("--metrics", "--slots"), "/metrics and the page at /ops/, see --http-address", "nothing"),
    _always(("--no-context-shift",), "an answer ends where the context is full", "nothing"),
    _always(("-cmoe", "--cpu-moe"), _NO_GPU, "nothing"),
    _without_meaning(("-tb", "--threads-batch"), "prompts and answers are computed by the same threads", "a value"),
    _without_meaning(("-Cb", "--cpu-mask-batch", "-Crb", "--cpu-range-batch"), "the same threads do both", "a value"),
    _without_meaning(("--cpu-strict", "--prio", "--poll"), "every thread has a CPU of its own, and spins", "a value"),
    _without_meaning(("-b", "--batch-size"), "-ub alone says how many tokens a step takes", "a value"),
    Flag(("-ngl", "--gpu-layers", "--n-gpu-layers"), "a value", _no_gpu, f"no meaning here: {_NO_GPU}", NO_MEANING),
    Flag(("-ot", "--override-tensor"), "a value", _tensors_on_cpu, f"no meaning here: {_NO_GPU}", NO_MEANING),
    _without_meaning(("-sm", "--split-mode", "-mg", "--main-gpu", "-ts", "--tensor-split"), _NO_GPU, "a value"),
    _without_meaning(("-ncmoe", "--n-cpu-moe"), _NO_GPU, "a value"),
    _without_meaning(("-nkvo", "--no-kv-offload"), _NO_GPU, "nothing"),
    _without_meaning(("-mla", "--mla-use"), "of DeepSeek's attention, which these models do not have", "a value"),
    _without_meaning(("-amb", "--attention-max-batch"), "attention takes no memory for a batch", "a value"),
    _without_meaning(("-cnv", "--conversation"), "numoe chat is the conversation, in another terminal", "nothing"),
    _without_meaning(("-co", "--color", "-i", "--interactive"), "numoe chat is the conversation", "nothing"),
    _without_meaning(("--warmup", "--no-warmup"), "kernels are compiled before a model is loaded", "nothing"),
    _without_meaning(("-dt", "--defrag-thold"), "the cache is in blocks, of which none is ever moved", "a value"),
    _refused(("--context-shift",), "an answer ends where the context is full", "nothing"),
    _refused(("-nocb", "--no-cont-batching"), "requests join and leave a running batch, always", "nothing"),
    _refused(("-n", "--predict", "--n-predict"), _ASKED_FOR.format("--max-tokens"), "a value"),
    _refused(("--temp", "--temperature"), _ASKED_FOR.format("--temperature"), "a value"),
    _refused(("--top-k", "--top-p", "--min-p"), _ASKED_FOR.format("--top-k, --top-p, --min-p"), "a value"),
    _refused(("-s", "--seed"), _ASKED_FOR.format("--seed"), "a value"),
    _refused(("--repeat-penalty",), _ASKED_FOR.format("--repetition-penalty"), "a value"),
    _refused(("-p", "--prompt", "-f", "--file"), "numoe generate TEXT asks a running service", "a value"),
    _refused(
        ("--api-key", "--api-key-file"), "keys are kept as hashes here: see `numoe keys add`, --api-keys", "a value"
    ),
    _refused(("-hft", "--hf-token"), "others could read it in the list of processes: set HF_TOKEN instead", "a value"),
)


def flag_of(name: str) -> Flag | None:
    """Theirs of this name."""
    return _BY_NAME.get(name)


_BY_NAME = {name: flag for flag in FLAGS for name in flag.names}
