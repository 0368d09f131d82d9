"""What an operator may set: one frozen tree, each default written once, on its field.

`numoe serve` fills it from flags, then the environment (NUMOE_STEP_TOKENS for --step-tokens), then one TOML file with
the same names (step_tokens = 512); what none of them names keeps its default. Nothing changes it afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

from numoe.model.gguf.kv_types import KvTypes
from numoe.model.gguf.tensors import TensorType
from numoe.protos.addresses import is_loopback
from numoe.protos.errors import SetupError
from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction

KvType = Literal["f16", "bf16", "q8_0", "f32"]

DEFAULT_ADDRESS = "127.0.0.1:50151"
HTTP_OFF = "off"
HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Bound:
    """What a number must be, said in its field's annotation; NaN and infinity are refused with every bound."""

    words: str
    holds: Callable[[float], bool]
    most: int = 2**31 - 1  # what gRPC and the arena can count


POSITIVE = Bound("more than 0", lambda value: value > 0)
NOT_NEGATIVE = Bound("0 or more", lambda value: value >= 0)
WORD = Bound("0 or more", lambda value: value >= 0, most=2**32 - 1)
LONG_WORD = Bound("0 or more", lambda value: value >= 0, most=2**64 - 1)


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where and how clients are heard."""

    address: str = DEFAULT_ADDRESS
    """Host and port to listen on, or unix:PATH; port 0 takes a free one."""

    http_address: str | None = None
    """Host and port of HTTP, or off: OpenAI's and Anthropic's APIs, the operators' page, health and metrics; port 0
    takes a free one. Default: 127.0.0.1 and the port after --address's; off where that has none."""

    cors_origins: tuple[str, ...] = ()
    """Origin of a page elsewhere that may ask the model over HTTP, as in https://chat.example, or * for any. May be
    given several times. Default: browsers act from the operators' page only."""

    api_keys: Path | None = None
    """A file of keys, made by `numoe keys add`: every route and call but those for health then needs one with the right
    role. Read anew on SIGHUP. Default: whoever reaches the addresses may do all."""

    tls_certificate: Path | None = None
    """Encrypt both addresses with this certificate, in PEM, followed by those of authorities between it and its root.
    A new one in its place is taken up. Default: nothing is encrypted."""

    tls_key: Path | None = None
    """The certificate's key, in PEM, without a password."""

    tls_client_ca: Path | None = None
    """Let only clients in whose own certificate one of these authorities has issued."""

    insecure: bool = False
    """Listen beyond loopback although nothing is encrypted, or nobody is asked for a key."""

    message_bytes: Annotated[int, POSITIVE] = 16 << 20
    """Largest request accepted, in bytes."""

    concurrent_requests: Annotated[int, POSITIVE] = 1024
    """Generate and Chat calls open at once; further ones are refused. Health and placement have room beside them."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How the model is spread over processes and threads."""

    workers: Annotated[int | None, POSITIVE] = None
    """Worker processes. Default: one per NUMA node."""

    threads_per_worker: Annotated[int | None, POSITIVE] = None
    """Computing threads of each worker. Default: one per physical core it owns."""

    nodes: tuple[int, ...] | None = None
    """NUMA nodes to use, in the workers' order. Default: all that have both CPUs and memory."""

    threads: Annotated[int | None, POSITIVE] = None
    """Computing threads of all workers together. Default: one per physical core."""

    numa: Literal["distribute", "isolate", "numactl", "none"] | None = None
    """distribute: a worker on every node, its memory bound there. isolate: only on the node where the command is
    started. numactl: as distribute, but interleaved if numactl around the command says so. none: one worker, neither
    pinned nor bound. Default: distribute."""

    cpus: str | None = None
    """CPUs to compute on, as in 0-9,20-29. Default: all that numactl, taskset and cpusets around the command leave."""

    membind: str | None = None
    """NUMA nodes whose memory may be used, as in 0 or 0-1. Default: all that are left, as with --cpus."""

    interleave: str | None = None
    """NUMA nodes, or all: one worker, its threads pinned, whose pages lie on these in turn."""

    mlock: bool = False
    """Lock weights in memory, so that they are never swapped out."""

    plan_file: Path | None = None
    """A plan written by `numoe plan`, of this host or with --hosts of several, to obey instead of making one."""

    rebalance: Literal["off", "auto"] = "off"
    """Whether whole experts move between workers as requests make other ones popular; see `numoe rebalance`."""

    allow_remote_memory: bool = False
    """Start although memory or threads of a worker are not on its NUMA node and cannot be moved there, and say so."""

    split: Literal["auto", "tensor", "expert"] = "auto"
    """Experts on several workers: tensor gives each some rows of every expert, expert some experts whole.
    Default: whichever is predicted to be faster."""

    replicas: float | None = None
    """Whole experts held once more, as a share of a layer's: 0.25. Default: as many as help and fit."""

    batch: Annotated[int, POSITIVE] = 1
    """Requests at once that the plan is made for."""

    expert_stats: Path | None = None
    """A file that keeps how often each expert was chosen: read if it is there, written while serving."""

    bandwidth: tuple[float, ...] | None = None
    """Memory bandwidth in GB/s, of all nodes or of each, to predict with.
    Default: as `numoe doctor` measured, or a guess."""

    step_timeout_seconds: Annotated[float, POSITIVE] = 600.0
    """Longest a single step may take before its workers count as lost."""

    stuck_seconds: Annotated[float, POSITIVE] = 30.0
    """A worker counts as lost whose threads have neither computed nor waited for so long: a machine that swaps, or a
    debugger, is no death."""

    verify_weights: Annotated[float | None, POSITIVE] = None
    """Compare all weights in memory with checksums taken at loading, in walks of so many seconds while nothing is
    computed: a worker in which a bit flipped is replaced. Default: never."""

    standby: bool = True
    """Keep a spare process beside each worker, of some 250 MB, so that one that is lost is replaced at once."""

    hosts: str | None = None
    """Run the layers on several hosts, one after the other: auto for all that have joined, a number of them, their
    addresses with commas between, or a file with one a line. Needs `numoe host start` on each. Default: this host."""

    host_gone_seconds: Annotated[float, POSITIVE] = 60.0
    """For how long a host that is gone is waited for, before those that remain take its layers over; and at the start
    one that --hosts asks for and that has not joined yet."""

    keeper: Literal["auto", "on", "off"] = "auto"
    """Whether a small process keeps the weights, so that none is read again after a loss. Default: where shared memory
    gets huge pages, without which decoding is slower; see `numoe doctor`."""

    survive_coordinator: Annotated[float, NOT_NEGATIVE] = 0.0
    """For how many seconds the keeper stays if this process is killed: the next `numoe serve` of the same model takes
    the weights over, if its plan is the same. Not with --keeper off. Default: all ends with it."""

    start_timeout_seconds: Annotated[float, POSITIVE] = 3600.0
    """Longest that starting, compiling and loading may take."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the scheduler may do at once, and for how long."""

    step_tokens: Annotated[int, POSITIVE] = 512
    """Token positions computed in one step, all requests together."""

    prefill_chunk: Annotated[int | None, POSITIVE] = None
    """Most positions of one prompt in one step. Default: step_tokens."""

    prompt_slowdown: Annotated[float, NOT_NEGATIVE] = 2.0
    """How many times as long a step of requests that stream may take, as measured, where prompts are run beside them;
    longer if more prompts wait than streams run, or none came for a while. 0: prompts have all of every step."""

    sequences: Annotated[int, POSITIVE] = 32
    """Requests in work at once."""

    context_tokens: Annotated[int | None, POSITIVE] = None
    """Longest prompt and answer together, in tokens. Default: the model's context, at most 8192."""

    kv_tokens: Annotated[int | None, POSITIVE] = None
    """Positions of all requests together that keys and values are kept for. Default: four full contexts."""

    kv_type: KvType = "f16"
    """Number format of keys and values in memory. q8_0 takes 53 % of the memory of f16 and bf16, f32 twice it."""

    cache_type_k: KvType | None = None
    """Number format of keys. Default: --kv-type's."""

    cache_type_v: KvType | None = None
    """Number format of values. Default: --kv-type's."""

    k_cache_hadamard: bool = False
    """Spread keys over all dimensions of a head before they are stored: q8_0 keys then lose a third as much."""

    prefix_cache: Literal["on", "off"] = "on"
    """Whether a prompt takes over what earlier requests, whose tokens began alike, left in memory that nobody needs."""

    speculate: Literal["auto", "off"] = "auto"
    """Whether tokens that a text seems to repeat are run as guesses beside the next one, where measured steps say that
    this is faster. auto never changes an answer."""

    kv_store: Path | None = None
    """A folder that keeps keys and values of finished prompts over restarts: where a prompt begins alike they are read
    instead of run. They tell what was asked, to whoever may read the folder. Default: none."""

    kv_store_gib: Annotated[float, POSITIVE] = 32.0
    """Most that --kv-store may take, in GiB; what was used longest ago is deleted."""

    slot_save_path: Path | None = None
    """A folder for files of slots, which POST /slots/N?action=save writes and restore reads. Default: none are."""

    smart_expert_reduction: str | None = None
    """KMIN,T as in 6,1 or 1,0.3: run a token's KMIN most probable experts, and others only if they are at least T times
    as probable as the first. A request may ask for another. Default: all."""

    queue_length: Annotated[int, NOT_NEGATIVE] = 64
    """Requests that may wait; one more is refused."""

    request_timeout_seconds: Annotated[float, POSITIVE] = 3600.0
    """Longest life of a request, waiting included, whatever deadline its client set."""

    drain_timeout_seconds: Annotated[float, NOT_NEGATIVE] = 30.0
    """On SIGTERM or Ctrl-C: how long running requests may take to finish."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is taken of the model's file."""

    packed: Path | None = None
    """A folder that `numoe pack` wrote, to load instead of MODEL, which is not needed then; if it is named all the
    same, it must be the file that the folder was packed from."""

    override_kv: tuple[str, ...] = ()
    """KEY=TYPE:VALUE instead of what the file says of a key that is read, as in qwen3moe.expert_used_count=int:6; the
    types are int, float, bool and str. May be given several times."""

    yarn: Literal["auto", "on", "off"] = "auto"
    """Whether positions are scaled by YaRN. auto does as the file says, but of a Qwen3 file that states a long context
    and no scaling YaRN is used if --context-tokens goes beyond what the model was trained on."""

    rope_scaling: Literal["none", "linear", "yarn"] | None = None
    """How positions are scaled, whatever --yarn and the file say."""

    rope_scale: Annotated[float | None, POSITIVE] = None
    """By which factor the context grows, with --rope-scaling. Default: the file's, with YaRN of Qwen3 at least 4."""

    yarn_orig_ctx: Annotated[int | None, POSITIVE] = None
    """Positions of the context that YaRN scales. Default: the file's."""

    rope_freq_base: Annotated[float | None, POSITIVE] = None
    """Base of RoPE's frequencies. Default: the file's."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Everything `numoe serve` can be told."""

    listen: ListenSettings = field(default_factory=ListenSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    model: ModelSettings = field(default_factory=ModelSettings)


KV_TYPES: Mapping[KvType, TensorType] = {
    "f16": TensorType.F16,
    "bf16": TensorType.BF16,
    "q8_0": TensorType.Q8_0,
    "f32": TensorType.F32,
}
DEFAULT_CONTEXT_TOKENS = 8192  # more is asked for seldom, and keys and values of 40,960 positions take gigabytes
DEFAULT_FULL_CONTEXTS = 4  # most requests fill a fraction of theirs, so many more than four run at once


def context_tokens(settings: EngineSettings, model_context_tokens: int) -> int:
    """Longest prompt and answer together that will be served."""
    return min(settings.context_tokens or DEFAULT_CONTEXT_TOKENS, model_context_tokens)


def kv_types(settings: EngineSettings) -> KvTypes:
    """Number formats of keys and values."""
    keys, values = (chosen or settings.kv_type for chosen in (settings.cache_type_k, settings.cache_type_v))
    return KvTypes(KV_TYPES[keys], KV_TYPES[values])


def kv_tokens(settings: EngineSettings, model_context_tokens: int) -> int:
    """Positions that keys and values are kept for."""
    return settings.kv_tokens or DEFAULT_FULL_CONTEXTS * context_tokens(settings, model_context_tokens)


def expert_reduction(settings: EngineSettings) -> ExpertReduction:
    """Which experts are run for requests that do not say. Raises SetupError."""
    if settings.smart_expert_reduction is None:
        return ALL_EXPERTS
    return read_reduction(settings.smart_expert_reduction)


def read_reduction(text: str) -> ExpertReduction:
    """KMIN,T as numbers. Raises SetupError."""
    fewest, comma, threshold = text.partition(",")
    try:
        found = ExpertReduction(int(fewest), float(threshold if comma else "1"))
    except ValueError:
        found = ExpertReduction(0)
    if not (0 < found.fewest < 2**31 and 0.0 <= found.threshold <= 1.0):
        raise SetupError(
            f"--smart-expert-reduction is {text!r}, expected KMIN,T: a whole number of experts, and a share of the "
            "largest probability from 0 to 1, as in 6,1"
        )
    return found


def http_address(settings: ListenSettings) -> str:
    """Where HTTP is served; "": nowhere. Raises SetupError for an address that is none."""
    if settings.http_address is None:
        is_loopback(settings.address)  # which refuses one without a port
        port = 0 if settings.address.startswith("unix:") else int(settings.address.rpartition(":")[2])
        if settings.address.startswith("unix:") or port == HIGHEST_PORT:
            return ""
        return f"127.0.0.1:{port + 1 if port else 0}"
    if settings.http_address == HTTP_OFF:
        return ""
    if settings.http_address.startswith("unix:"):
        raise SetupError(f"--http-address is {settings.http_address}, expected HOST:PORT or {HTTP_OFF}")
    return settings.http_address


def check_settings(settings: ServeSettings) -> None:
    """Refuse, with SetupError, what cannot work on any machine, and listening in the open without being told to."""
    for group in (settings.listen, settings.workers, settings.engine, settings.model):
        check_bounds(group)
    if not all(map(math.isfinite, settings.workers.bandwidth or ())):
        raise SetupError(f"--bandwidth is {list(settings.workers.bandwidth or ())}, expected finite numbers of GB/s")
    if settings.engine.prefill_chunk is not None and settings.engine.prefill_chunk > settings.engine.step_tokens:
        raise SetupError(
            f"--prefill-chunk is {settings.engine.prefill_chunk}, more than --step-tokens {settings.engine.step_tokens}"
        )
    expert_reduction(settings.engine)
    if settings.workers.hosts is not None and settings.workers.rebalance == "auto":
        raise SetupError("--rebalance auto moves experts within one host, and --hosts names several: leave one away")
    kept = {"--kv-store": settings.engine.kv_store, "--slot-save-path": settings.engine.slot_save_path}
    for flag in (flag for flag, folder in kept.items() if folder is not None):
        if settings.engine.prefix_cache == "off":
            raise SetupError(f"{flag} keeps what --prefix-cache shares, which is off: leave one of them away")
        if settings.workers.hosts is not None:
            raise SetupError(f"{flag} keeps the blocks of one host, and --hosts names several: leave one away")
    if settings.workers.survive_coordinator and settings.workers.keeper == "off":
        raise SetupError("--survive-coordinator needs a keeper, and --keeper is off: leave one of them away")
    _check_listening(settings.listen)


def _check_listening(listen: ListenSettings) -> None:
    if (listen.tls_certificate is None) is not (listen.tls_key is None):
        raise SetupError("--tls-certificate and --tls-key belong together: name both or none")
    if listen.tls_client_ca is not None and listen.tls_certificate is None:
        raise SetupError("--tls-client-ca needs --tls-certificate, without which nothing is encrypted")
    missing = [
        flag
        for flag, value in (("--api-keys", listen.api_keys), ("--tls-certificate", listen.tls_certificate))
        if value is None
    ]
    for address in (listen.address, http_address(listen)):
        if address and missing and not listen.insecure and not is_loopback(address):
            raise SetupError(
                f"{address} can be reached from outside, and {' and '.join(missing)} to guard it is missing: "
                "listen on 127.0.0.1, or say --insecure if the network is trusted"
            )


def check_bounds(group: object) -> None:
    """Raise SetupError for a number that is set and does not keep to the bound in its field's annotation."""
    for name, hint in get_type_hints(type(group), include_extras=True).items():
        for bound in getattr(hint, "__metadata__", ()):
            if isinstance(bound, Bound):
                check_bound(name, getattr(group, name), bound)


def check_bound(name: str, value: float | None, bound: Bound) -> None:
    """Raise SetupError for a number that is set and does not keep to a bound; `name`: of what is set."""
    if value is None:
        return
    finite = -math.inf < value < math.inf  # not for NaN
    if not (finite and bound.holds(value) and value <= bound.most):
        end = " and finite" if not finite else f" and at most {bound.most}" if value > bound.most else ""
        raise SetupError(f"--{name.replace('_', '-')} is {value}, expected {bound.words}{end}")
