"""The process that becomes one shard after another: python -m tests.worker.placing.loading_worker

Reads pickled orders from standard input and answers each with the shard's Locality, or with the text of the SetupError
that refused it. None instead of an order asks where the last shard is now.
"""

from __future__ import annotations

import pickle
import sys

from numoe.model.planning.assignment import WorkerAssignment
from numoe.protos.errors import SetupError
from numoe.protos.locality import Locality
from numoe.worker.running.process_end import end_with
from numoe.worker.running.running_shard import RunningShard


def answer_to(assignment: WorkerAssignment | None, shards: list[RunningShard]) -> Locality | str:
    if assignment is None:
        return shards[-1].recount().locality
    if not shards:
        end_with(assignment.coordinator)
    shards.append(RunningShard(assignment))
    try:
        return shards[-1].load().locality
    except SetupError as error:
        return str(error)


def main() -> None:
    shards: list[RunningShard] = []
    while True:
        pickle.dump(answer_to(pickle.load(sys.stdin.buffer), shards), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
