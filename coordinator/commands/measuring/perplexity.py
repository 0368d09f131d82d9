"""`numoe perplexity`: how well a model predicts a text, as llama-perplexity measures it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from numoe.coordinator.commands.options import HUB_OPTIONS, SERVE_SETTINGS, HubOptions
from numoe.coordinator.settings import ServeSettings, check_settings
from numoe.protos.errors import SetupError

if TYPE_CHECKING:
    from numoe.coordinator.commands.measuring.evaluating import Task

USUAL_CONTEXT = 512


def perplexity(
    model: Annotated[Path | None, Parameter(name=("--model", "-m"))] = None,
    *,
    file: Annotated[Path | None, Parameter(name=("--file", "-f"))] = None,
    ctx_size: Annotated[int | None, Parameter(name=("--ctx-size", "-c"))] = None,
    chunks: int | None = None,
    kl_divergence_base: Annotated[Path | None, Parameter(name=("--kl-divergence-base", "--save-all-logits"))] = None,
    kl_divergence: bool = False,
    hub: HubOptions = HUB_OPTIONS,
    settings: ServeSettings = SERVE_SETTINGS,
    config: Path | None = None,
) -> None:
    """Measure how well a model predicts a text, as llama-perplexity does.

    The text is cut into chunks of --ctx-size tokens; of each the second half counts. Perplexity is exp of the mean
    negative log-likelihood of a token, and its error that of the mean.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split. Default: what --packed names, or the demo model.
    file
        The text, UTF-8.
    ctx_size
        Tokens of a chunk. Default: 512, with --kl-divergence as in the file.
    chunks
        Chunks to evaluate at most. Default: all.
    kl_divergence_base
        Write all log-probabilities to this file, in llama-perplexity's format; with --kl-divergence read it.
    kl_divergence
        Compare with the log-probabilities in --kl-divergence-base, and evaluate the tokens that stand in it.
    hub
        As for serve.
    settings
        As for serve.
    config
        As for serve.
    """
    check_settings(settings)
    if chunks is not None and chunks < 0:  # llama-perplexity's -1 is all
        chunks = None
    if chunks == 0:
        raise SetupError("--chunks is 0, expected at least 1")
    if kl_divergence and kl_divergence_base is None:
        raise SetupError("--kl-divergence needs --kl-divergence-base FILE, the log-probabilities to compare with")
    if not kl_divergence and file is None:
        raise SetupError("--file TEXT is missing: what text is to be predicted?")
    # They bring numpy and structlog: 0.5 s, which `--help` and a refused flag do not wait for.
    from numoe.coordinator.commands.measuring.evaluating import compare_with_saved, evaluate_text, save_all
    from numoe.coordinator.commands.measuring.running import check_folder, find_model, loaded
    from numoe.coordinator.measuring.evaluation import settings_for

    if kl_divergence_base is not None and not kl_divergence:
        check_folder("--kl-divergence-base", kl_divergence_base)
    path = find_model(model, hub, settings)
    task = _task(path, settings, file, ctx_size, chunks, kl_divergence_base if kl_divergence else None)
    settings = replace(settings, engine=settings_for(task.context, settings.engine))
    with loaded(path, settings) as measured:
        if task.saved is not None:
            compare_with_saved(measured, task, task.saved)
        elif kl_divergence_base is not None:
            save_all(measured, task, kl_divergence_base)
        else:
            evaluate_text(measured, task)


def _task(
    path: Path | None,
    settings: ServeSettings,
    file: Path | None,
    ctx_size: int | None,
    most: int | None,
    saved: Path | None,
) -> Task:
    """What to evaluate: of the text, or what stands in a file of log-probabilities. Raises SetupError."""
    from numoe.coordinator.commands.measuring.evaluating import Task
    from numoe.coordinator.machine.model_file import read_model
    from numoe.coordinator.measuring.saved_logits import open_saved
    from numoe.coordinator.measuring.texts import cut_text, encode_text, read_text

    spec, tokenizer, template = read_model(path, settings)
    if template is not None:
        template.close()
    bos_id = tokenizer.bos_id if tokenizer.add_bos else None
    if saved is not None:
        found = open_saved(saved, spec.vocabulary)
        if ctx_size is not None and ctx_size != found.context:
            raise SetupError(f"--ctx-size is {ctx_size}, but {saved} was made with {found.context}: leave it out")
        return Task(found.tokens[:most], bos_id, found)
    assert file is not None
    return Task(cut_text(encode_text(read_text(file), tokenizer), ctx_size or USUAL_CONTEXT, most), bos_id, None)
