"""Compiles the kernels into the cache, before the workers start: python -m numoe.worker.running.warm Q4_K Q6_K

With --end-with=PID it ends when the process PID does, however that is.

The step is the same for all models; tiles are compiled for the formats named, for all if none is. `values` names the
tiles of the values of a KV cache of Q8_0. Workers that find the cache full load it in a second. Several processes that
fill it at once can crash (Numba #4807), or find the code of one function under the name of another.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from numoe.kernels.attention.rope import compile_rope_table
from numoe.kernels.attention.value_tile import attention_tiles
from numoe.kernels.cpu.compiled_files import intact_files
from numoe.kernels.cpu.jit import compile_for, sole_compiler
from numoe.kernels.matmul.tile_table import tile_table
from numoe.kernels.records import LAYER, MATRIX, Constants, Weights
from numoe.kernels.step.step import serve_steps
from numoe.kernels.threads.team import LONE, abort_all
from numoe.kernels.weights.formats import FORMATS
from numoe.kernels.weights.packing import compile_pack
from numoe.model.architectures.spec import LayerTensors, ModelSpec, Rope
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.gguf.tensors import TensorInfo, TensorType
from numoe.model.planning.assignment import WorkerAssignment, layout_of
from numoe.model.planning.plan import Range, Shard, ShardPlan
from numoe.protos.messages import StepLimits
from numoe.worker.placing.memory import allocate
from numoe.worker.running.process_end import end_with
from numoe.worker.running.step_memory import memory_of, step_input
from numoe.worker.running.step_records import sizes_of

_STAMP = ".compiled"
VALUES = "values"
END_WITH = "--end-with="


def smallest_assignment() -> WorkerAssignment:
    """A model of one layer and one head: the compiled code depends on types, not on sizes."""
    tensor = TensorInfo("", TensorType.F32, (32, 32), Path(os.devnull), 0, 0)
    layer = LayerTensors(*[tensor] * len(LayerTensors.__dataclass_fields__))
    spec = ModelSpec(
        architecture="", name="", layers=1, width=32, query_heads=1, kv_heads=1, head_size=32, context_length=64,
        vocabulary=32, rms_epsilon=1e-6, rope=Rope("neox", 1e4, 32), experts=1, active_experts=1, expert_width=32,
        token_embedding=tensor, output_norm=tensor, output=tensor, layer_tensors=(layer,),
    )  # fmt: skip
    one, rows = Range(0, 1), Range(0, 32)
    plan = ShardPlan("", (Shard(0, 0, (0,), one, one, rows, rows, rows),), (None,))
    return WorkerAssignment(0, spec, plan, StepLimits(1, 1, 64, 1, 64), KvTypes(), 0, 0, 1, 1.0)


def compile_step() -> None:
    """Compile the step, and what loads a shard; nothing of it is run, as ahead.py compiles for other CPUs."""
    assignment = smallest_assignment()
    layout = layout_of(assignment.spec, assignment.plan, assignment.limits)
    arena = allocate(layout.bytes)
    byte, single = np.zeros(1, np.uint8), np.zeros(32, np.float32)
    compile_pack()
    compile_rope_table()
    compile_for(
        serve_steps,
        LONE,
        sizes_of(assignment),
        Constants(single, single.reshape(1, 32)),
        Weights(np.zeros(1, LAYER), np.zeros(1, MATRIX), single, byte, attention_tiles([], values=False)),
        memory_of(assignment, layout, arena, allocate(64)),
        step_input(layout, arena),
        0,
        0,
        0,
        0,
    )
    compile_for(abort_all, 0, 0, 0)


def load_code(names: Sequence[str]) -> None:
    """Load, into this process, the step and the tiles of all that is named; `main` has compiled them."""
    compile_step()
    tile_table([format_ for format_ in FORMATS if format_.name in names])
    attention_tiles([], values=VALUES in names)


def _once(folder: Path, name: str, compile_: Callable[[], object]) -> None:
    """Compile unless a stamp says that it was done, and into which files, and those are whole."""
    stamp = folder / f"{name}{_STAMP}"
    if not (stamp.exists() and intact_files(folder).issuperset(stamp.read_text().splitlines() or [name])):
        compile_()
        stamp.write_text("\n".join(sorted(intact_files(folder))))


def main(names: list[str]) -> None:
    """Compile what is not in the cache, by one process at a time; others wait for it."""
    for option in [name for name in names if name.startswith(END_WITH)]:
        names = [name for name in names if name != option]
        end_with(int(option.removeprefix(END_WITH)))
    with sole_compiler() as folder:
        _once(folder, "step", compile_step)
        for format_ in FORMATS:
            if not names or format_.name in names:
                _once(folder, format_.name, partial(tile_table, [format_]))
        if not names or VALUES in names:
            _once(folder, VALUES, partial(attention_tiles, [], values=True))


if __name__ == "__main__":
    main(sys.argv[1:])
