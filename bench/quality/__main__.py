"""How true each weight format is computed: python -m bench.quality --llama-cpp FOLDER [FORMAT ...]

SmolLM2-135M, padded with zeros so that every format fits (padded.py), is quantised by llama-quantize, all matrices to
one type. The truth is that very file, dequantised and run in float64 by tests/forward.py: what is measured is
arithmetic (activations rounded to 8 bits, keys and values to 16), not what quantising the weights costs. Of chunks of
256 tokens of plain English the predictions of the later halves count.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from cyclopts import App
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.group import PATIENCE_SECONDS, worker_group
from bench.models import default_folder
from bench.quality.divergence import Divergence, divergence, read_saved
from bench.quality.padded import dequantised, write_padded
from numoe.coordinator.machine.model_file import read_model
from numoe.coordinator.measuring.evaluation import evaluate, first_position, settings_for
from numoe.coordinator.measuring.steps import Steps
from numoe.coordinator.settings import EngineSettings
from numoe.model.architectures.reading import model_spec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.made_up.demo import find_source
from numoe.protos.errors import SetupError
from tests.forward import Forward

app = App(name="python -m bench.quality", help=__doc__)

TEXT = Path(__file__).with_name("plain_english.txt")
CONTEXT = 256
# As llama-quantize calls them; the K-quants' mixes are made pure.
FORMATS = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4_MOE"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"),
)


def quantised_model(folder: Path, programs: Path, name: str) -> Path:
    """The padded model in one format, written if it is not there yet. Raises SetupError."""
    folder.mkdir(parents=True, exist_ok=True)
    original = folder / "smollm2-padded-f32.gguf"
    if not original.exists():
        write_padded(find_source(), original)
    path = folder / f"smollm2-padded-{name.lower()}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        _run([str(programs / "llama-quantize"), "--pure", str(original), str(part), name])
        part.rename(path)
    return path


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise SetupError(f"{command[0]} cannot be run: {error.strerror}; name its folder by --llama-cpp") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["no message"]
        raise SetupError(f"{Path(command[0]).name} ended with {done.returncode}: {lines[-1]}")


def chunks_of(model: Path, text: Path, count: int) -> NDArray[np.int32]:  # [count, CONTEXT]
    """The first tokens of a text. Raises SetupError if it has fewer chunks."""
    _, tokenizer, _ = read_model(model)
    found = tokenizer.encode(text.read_text())
    most = len(found) // CONTEXT
    if not 1 <= count <= most:
        raise SetupError(f"--chunks is {count}, expected 1 to the {most} of {CONTEXT} tokens in {text}")
    return np.array(found[: count * CONTEXT], np.int32).reshape(count, CONTEXT)


def true_logits(model: Path, chunks: NDArray[np.int32]) -> NDArray[np.float64]:  # [positions, V]
    """The logits of the evaluated positions, computed in float64."""
    file = open_gguf(model)
    weights = {name: dequantised(tensor) for name, tensor in file.tensors.items()}
    forward, first = Forward(weights, model_spec(file)), first_position(CONTEXT)
    return np.concatenate([forward(part.tolist()).logits[first:-1] for part in chunks])


def our_logits(model: Path, chunks: NDArray[np.int32]) -> NDArray[np.float32]:  # [positions, V]
    """The logits of the evaluated positions, computed by one worker."""
    with worker_group(model, 1, None, settings_for(CONTEXT, EngineSettings())) as measured:
        steps = Steps(measured.group, measured.spec.vocabulary, PATIENCE_SECONDS)
        found = evaluate(measured.group, steps, chunks, None)
        return np.concatenate([one.logits(0, len(one.targets)) for one in found])


def peer_logits(model: Path, programs: Path, text: Path, chunks: NDArray[np.int32]) -> NDArray[np.float32] | None:
    """The logits of the same positions by llama-perplexity; None if it was not built. Raises SetupError."""
    program, saved = programs / "llama-perplexity", model.with_suffix(".logits")
    if not program.is_file():
        return None
    context = ["-c", str(CONTEXT), "--chunks", str(len(chunks)), "-fa", "on"]
    try:
        _run([str(program), "-m", str(model), "-f", str(text), *context, "--save-all-logits", str(saved)])
        found = read_saved(saved)
    finally:
        saved.unlink(missing_ok=True)
    if not np.array_equal(found.tokens, chunks):
        raise SetupError(f"llama-perplexity reads other tokens in {text} than numoe; the two cannot be compared")
    return found.logits


def _cells(found: Divergence | None) -> tuple[str, str]:
    return ("", "") if found is None else (f"{found.kl:.6f} ± {found.kl_error:.6f}", f"{found.agreement:.1%}")


@app.default
def main(*formats: str, llama_cpp: Path, folder: Path | None = None, text: Path = TEXT, chunks: int = 2) -> None:
    """Print the divergence from the truth (and its standard error), and how often the likeliest token is the truth's.

    Args:
        formats: Types as llama-quantize calls them. Default: all that numoe runs.
        llama_cpp: Folder of llama.cpp's programs: llama-quantize, and llama-perplexity for the comparison.
        folder: Where the models are kept. Default: $XDG_CACHE_HOME/numoe/bench.
        text: What is predicted.
        chunks: How many of the text count; the default text has 2. The error falls with the root of their number.
    """
    console = Console()
    made = Table("format", "KL, ours (nats)", "KL, llama.cpp", "top 1, ours", "top 1, llama.cpp")
    try:
        for name in formats or FORMATS:
            model = quantised_model(folder or default_folder(), llama_cpp, name)
            tokens = chunks_of(model, text, chunks)
            truth = true_logits(model, tokens)
            ours = divergence(truth, our_logits(model, tokens))
            logits = peer_logits(model, llama_cpp, text, tokens)
            peer = None if logits is None else divergence(truth, logits)
            (our_kl, our_top), (peer_kl, peer_top) = _cells(ours), _cells(peer)
            console.print(f"{name}: KL {our_kl} {peer_kl}", highlight=False)
            made.add_row(name, our_kl, peer_kl, our_top, peer_top)
    except SetupError as error:
        Console(stderr=True).print(f"error: {error}", markup=False)
        raise SystemExit(2) from None
    console.print(made)


if __name__ == "__main__":
    app()
