"""How well a model predicts a text: python -m bench.quality.perplexity MODEL.gguf TEXT.txt [--workers 2]

Perplexity is exp of the mean negative log-probability of every token but the first, each seen with all that precedes it
and decoded one by one, as in generation. Control tokens are not added.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from cyclopts import App
from rich.console import Console

from bench.group import PATIENCE_SECONDS, chunk, worker_group
from numoe.coordinator.machine.model_file import read_model
from numoe.coordinator.settings import EngineSettings, KvType
from numoe.coordinator.workers.group import HostGroup
from numoe.protos.messages import Step

app = App(help=__doc__)


def log_probabilities(group: HostGroup, token_ids: list[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:  # [T-1]
    """Of each token but the first, given those before it."""
    found = []
    for position, (token_id, following) in enumerate(pairwise(token_ids)):
        group.submit(Step(position, (chunk(group, position, [token_id]),)))
        group.collect(PATIENCE_SECONDS)
        logits = group.logits()[0].astype(np.float64)
        found.append(logits[following] - np.logaddexp.reduce(logits))
    return np.array(found)


@app.default
def main(model: Path, text: Path, *, workers: int = 1, kv_type: KvType = "f16") -> None:
    """Print the perplexity of a text under a model."""
    _, tokenizer, _ = read_model(model)
    token_ids = tokenizer.encode(text.read_text())
    context = -(-len(token_ids) // 64) * 64
    with worker_group(model, workers, None, EngineSettings(context_tokens=context, kv_type=kv_type)) as measured:
        perplexity = float(np.exp(-log_probabilities(measured.group, token_ids).mean()))
    Console().print(f"{len(token_ids)} tokens, perplexity {perplexity:.3f}")


if __name__ == "__main__":
    app()
