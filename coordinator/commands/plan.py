"""`numoe plan`: makes the plan that `numoe serve` would make, explains it and writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from numoe.coordinator.commands.options import HUB_OPTIONS, ROOT, SERVE_SETTINGS, HubOptions, read_machine
from numoe.coordinator.commands.screen.progress import LoadingView
from numoe.coordinator.commands.screen.terminal import out
from numoe.coordinator.hub.names import HubName
from numoe.coordinator.settings import ServeSettings, check_settings, kv_types
from numoe.protos.errors import SetupError

if TYPE_CHECKING:
    from numoe.model.architectures.spec import ModelSpec


def plan(
    model: Path | None = None,
    /,
    *,
    hub: HubOptions = HUB_OPTIONS,
    settings: ServeSettings = SERVE_SETTINGS,
    output: Path | None = None,
    root: Path = ROOT,
    config: Path | None = None,
) -> None:
    """Show which worker would own which part of a model, whether it fits, and how fast it is predicted to be.

    What serve would refuse is refused with the same line and status 2, after what can be shown of it.

    Parameters
    ----------
    model
        A GGUF file, the first one if it is split. Default: what --packed names.
    hub
        Or its name. Of files that are not in the cache only the heads are fetched.
    settings
        As for serve.
    output
        Write the plan here too, to be read, edited and given to `numoe serve --plan-file`.
    root
        A folder with a copy of another machine's /sys and /proc, to plan for that machine instead.
    config
        As for serve.
    """
    check_settings(settings)
    wanted = hub.wanted(model)
    if model is None and wanted is None and settings.model.packed is None:
        raise SetupError("no model is named: give a GGUF file, --packed FOLDER, or --hf-repo OWNER/REPO:QUANT")
    # They bring numpy and structlog: 0.5 s, which `--help` and a refused flag do not wait for.
    from numoe.coordinator.commands.tables.forecast import describe_choice
    from numoe.coordinator.commands.tables.plan import describe_plan
    from numoe.coordinator.limits import step_limits
    from numoe.coordinator.logs import configure_logging
    from numoe.coordinator.machine.model_file import read_model
    from numoe.coordinator.machine.planning import check_lock, decide_plan
    from numoe.model.planning.plan_checks import check_placement
    from numoe.model.planning.plan_file import to_toml

    configure_logging()  # what is said of a model or a hub is no part of the plan
    with _readable(model, wanted) as path:
        spec, _, template = read_model(path, settings)  # what `numoe serve` would refuse of the text, too
    if template is not None:
        template.close()
    if settings.workers.hosts is not None:
        _plan_hosts(path, spec, settings, output)
        return
    topology = read_machine(root)
    decision = decide_plan(spec, topology, settings)
    limits = step_limits(settings.engine, spec.context_length)
    types = kv_types(settings.engine)
    out().print(describe_plan(decision.plan, spec, topology, limits, types))
    out().print(describe_choice(decision.choice, spec, decision.speeds, decision.stats))
    if output is not None:
        _write_text(output, to_toml(decision.plan))  # also one that does not fit, to be edited until it does
    check_placement(decision.plan, spec, topology, limits, types)
    check_lock(decision.plan, spec, settings.workers, root)


def _plan_hosts(path: Path | None, spec: ModelSpec, settings: ServeSettings, output: Path | None) -> None:
    """Show which host would run which layers. Each plans its own part as it would the whole of a model."""
    from numoe.coordinator.commands.tables.hosts import describe_hosts, describe_workers
    from numoe.coordinator.limits import step_limits
    from numoe.coordinator.stages.sharing import plan_hosts
    from numoe.model.planning.plan_file import hosts_to_toml

    shared, plan = plan_hosts(path, spec, settings)
    out().print(describe_hosts(shared.hosts, shared.forecasts, shared.bytes, shared.layers))
    limits = step_limits(settings.engine, spec.context_length)
    out().print(describe_workers(plan, spec, limits, kv_types(settings.engine)))
    if output is not None:
        _write_text(output, hosts_to_toml(plan))


@contextmanager
def _readable(model: Path | None, wanted: HubName | None) -> Iterator[Path | None]:
    """A path at which the model's head can be read, in the context; None: none is named but a packed folder."""
    if wanted is None:
        yield model
        return
    from numoe.coordinator.hub.models import find_model, model_heads

    with LoadingView() as view, model_heads(find_model(wanted, view), view) as path:
        yield path


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}") from error
