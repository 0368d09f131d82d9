"""The whole service at one moment, as plain data: what the page, the command line and the metrics show.

A Snapshot is taken once a second at most, and only while somebody watches. Its fields are the *parts* of the stream at
/ops/stream (api/http/stream.py): every message there is a JSON object with some of them, by name, each whole; whoever
merges the messages has the snapshot. `now` comes every second, the others when they have changed.

    now             Unix time, s: a stream without it for 3 s is stale
    service         name, state, addresses, model, what is under way
    hosts           machines, their NUMA nodes and what their memory is used for; the coordinator's own is the first
    workers         one entry for each, in the order of their numbers
    experts         the map: who holds which expert, what it weighs, since when
    recent          how often each expert was chosen in the last 10 s (10 to 15), by layer and by worker
    lately          the same of the last 5 min
    ever            the same since the workers started
    flow            requests, tokens and times now
    history         the same of the last 15 min, a point every 5 s
    requests        the open requests
    events          what happened last, the newest at the end
    configuration   every setting, and who chose it
    findings        what `numoe doctor` says of the settings of each host

Times are seconds, sizes bytes, rates per second. None (null) is what nobody knows or what has not been: a fill while no
step ended, the node of a host that does not tell. Rates and shares are of the last 10 s (10 to 15) that have been. Of a
host that does not answer, all is as it told last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from numoe.coordinator.engine.event_log import ServiceEvent
from numoe.coordinator.machine.machine_look import Host
from numoe.coordinator.operations.configuration import Setting
from numoe.coordinator.workers.placement import WorkerState
from numoe.model.doctor.finding import Level


@dataclass(frozen=True, slots=True)
class Packed:
    """An array as bytes: little-endian, rows one after the other; in JSON the bytes are base64."""

    type: Literal["uint8", "uint16", "uint32", "float64"]  # float64 holds whole numbers above 32 bits
    shape: tuple[int, ...]
    data: bytes

    @property
    def number_bytes(self) -> int:
        """The bytes of one number."""
        return {"uint8": 1, "uint16": 2, "uint32": 4, "float64": 8}[self.type]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is."""

    phase: str  # loading: "starting", "compiling", "loading"; else what is done
    done: int
    total: int  # 0: nobody knows


@dataclass(frozen=True, slots=True)
class Service:
    """What is served, and how it is."""

    state: Literal["loading", "serving", "restarting", "draining", "stopped"]
    version: str
    pid: int
    started_at: float  # Unix time
    grpc: str  # the address
    http: str  # the address; "": off
    model: str = ""  # its name is the file's: show it as text, never as markup
    layers: int = 0
    experts: int = 0  # of a layer; 1: a dense model, which has no map
    active_experts: int = 0  # for each token
    context_tokens: int = 0
    split: str = ""  # of experts over workers: "tensor" rows of every one, "expert" whole ones, "mixed"
    binding: str = ""  # how sure the placement is: "cpus+memory, verified" at best
    restarts: int = 0  # of all workers, after one was lost
    loading: Progress | None = None  # while the state is loading
    rebalance: Progress | None = None  # moves of experts that are under way


@dataclass(frozen=True, slots=True)
class WorkerNow:
    """A worker, in the room of its node."""

    worker: int
    host: int  # index in `hosts`
    first_layer: int  # of those that its host runs
    layers: int
    node: int
    pid: int | None  # None: not started, or lost
    state: WorkerState
    cpus: str  # that its computing threads are bound to
    threads: int  # that compute
    process_threads: int | None  # all of the process
    threads_off: int | None  # of them, may run on other CPUs
    loaded_bytes: int  # while loading
    to_load_bytes: int
    weight_bytes: int | None
    kv_bytes: int | None  # set aside
    kv_used_bytes: int | None  # held by requests
    on_node_bytes: int | None  # weights, KV and its part of the arena; None: the kernel does not tell
    off_node_bytes: int | None
    problem: str  # what is elsewhere, for people; "": nothing
    fill: float | None  # read_rate over peak: the share of the node's bandwidth that its weights are read with
    read_rate: float | None  # bytes of weights per second, within steps
    peak: float  # its node's, divided by the workers there
    busy: float  # share of the time spent inside steps
    step_seconds: float | None  # of one step, on average
    wait_share: float | None  # of the time inside steps, in which it waited for other workers
    steps: int
    tokens: int
    seen_ago: float | None  # since its last sign of life; some 0.1 s if all is well, longer in a gather that waits
    restarts: int  # of all workers, after one was lost
    ready_at: float | None  # Unix time since when all workers are ready; None: they are not


@dataclass(frozen=True, slots=True)
class Moved:
    """Experts that came to lie elsewhere at a time."""

    at: float  # Unix time
    experts: tuple[int, ...]  # layer * experts + expert; each stands once, at its last move


@dataclass(frozen=True, slots=True)
class ExpertMap:
    """Who holds which expert."""

    holders: Packed  # [L, E] a bit for each worker that holds it whole; 0: split by row, all of its host hold rows
    expert_bytes: tuple[int, ...]  # [L] of one whole expert
    placed_at: float  # Unix time since when experts lie where they do, but for those in `moved`
    moved: tuple[Moved, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """How often experts were chosen in a time. A token of a layer chooses `active_experts` of them."""

    seconds: float  # how long that time was when the counts last changed
    counts: Packed  # [L, E]
    skew: tuple[float, ...]  # [L] the most chosen expert over the mean: 1 is even
    imbalance: tuple[float, ...]  # [L] the most loaded worker over the mean: 1 is even
    shares: tuple[float, ...]  # [workers] of all choices, those that it computes; 0 where nothing was chosen


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests and tokens."""

    running: int
    queued: int
    oldest_queued_seconds: float  # 0: nobody waits
    rejected: int  # since the start, as there was no room
    ended: dict[str, int]  # requests by how they ended, since the start: stop, length, cancelled, worker_lost, ...
    kv_blocks_used: int
    kv_blocks_reserved: int  # held, or needed soon, by the requests at work; who finds too few others waits
    kv_blocks: int
    prompt_tokens: int  # run since the start
    generated_tokens: int
    prefill_rate: float  # prompt tokens per second, of all requests
    decode_rate: float  # generated tokens per second, of all requests
    first_token_seconds: float | None  # from a request's arrival to its first token, on average
    between_tokens_seconds: float | None
    kv_blocks_cached: int = 0  # that nobody holds, and whose tokens the next request may take over
    cached_tokens: int = 0  # of prompts, that had not to be run, since the start
    preemptions: int = 0  # of requests that gave their blocks back to others, since the start
    step_age: float | None = None  # since the step under way began; None: there is none, nobody asks for anything


@dataclass(frozen=True, slots=True)
class History:
    """Columns of equal length, the oldest point first."""

    seconds: float  # between two points
    until: float  # Unix time of the last point
    running: tuple[int, ...]
    queued: tuple[int, ...]
    rejected: tuple[int, ...]  # between the point before and this one
    kv_used: tuple[float, ...]  # share of the blocks
    prefill_rate: tuple[float, ...]
    decode_rate: tuple[float, ...]
    first_token_seconds: tuple[float | None, ...]
    between_tokens_seconds: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class RequestNow:
    """An open request."""

    id: str
    client: str  # who asks: "ipv4:127.0.0.1:40312"
    phase: Literal["queued", "prefill", "decode", "resuming"]
    prompt_tokens: int
    prompt_done: int
    tokens: int  # of the answer
    most_tokens: int
    rate: float | None  # tokens of the answer per second
    age: float  # since it came


@dataclass(frozen=True, slots=True)
class HostFinding:
    """What the doctor says of a host, see Finding (model/doctor/finding.py)."""

    host: int  # index in `hosts`
    level: Level
    subject: str
    found: str
    cost: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All parts; those that need a loaded model are None before."""

    now: float
    service: Service
    hosts: tuple[Host, ...]
    workers: tuple[WorkerNow, ...]
    experts: ExpertMap
    recent: Choices
    lately: Choices
    ever: Choices
    flow: Flow
    history: History
    requests: tuple[RequestNow, ...]  # those at work in order of admission, then those that wait; the first 100
    events: tuple[ServiceEvent, ...]  # the last 50
    configuration: tuple[Setting, ...]
    findings: tuple[HostFinding, ...]
