"""`numoe placement` and `numoe rebalance`: show where a running service's model lies, and move its experts."""

from __future__ import annotations

from numoe.coordinator.cluster.wanted_hosts import read_wanted
from numoe.coordinator.commands.options import SERVICE_OPTIONS, ServiceOptions
from numoe.coordinator.commands.screen.progress import show_moves
from numoe.coordinator.commands.screen.terminal import out
from numoe.coordinator.commands.tables.experts import describe_experts
from numoe.coordinator.commands.tables.placement import describe_placement
from numoe.protos.errors import SetupError
from numoe.v1.placement_pb2 import RebalanceRequest


def placement(
    *, options: ServiceOptions = SERVICE_OPTIONS, layer: int | None = None, expert: int | None = None
) -> None:
    """Show where a served model lies: each worker's memory by NUMA node, layer by layer, and how it is bound.

    Parameters
    ----------
    options
        Which service.
    layer
        Show where the experts of this layer live instead, and how often each is chosen.
    expert
        Of that layer, only this expert.
    """
    if expert is not None and layer is None:
        raise SetupError("--expert names an expert of a layer: name that too, with --layer")
    with options.connect() as client:
        told = client.placement()
        if layer is None:
            out().print(describe_placement(told))
        else:
            out().print(describe_experts(client.expert_map(), told, layer, expert))


def rebalance(*, options: ServiceOptions = SERVICE_OPTIONS, drain: int | None = None, hosts: str | None = None) -> None:
    """Move whole experts between the workers of a running service, so that all compute equally much.

    Parameters
    ----------
    options
        Which service.
    drain
        A worker to empty of experts instead, so that its node can rest.
    hosts
        Share the layers out over these hosts instead, as for serve: one that came later is taken in, one that is left
        out can rest. Streams wait while the layers are loaded, and go on with the same tokens.
    """
    if drain is not None and not 0 <= drain < 2**32:
        raise SetupError(f"--drain is {drain}, expected a worker's number; `numoe placement` shows them")
    if drain is not None and hosts is not None:
        raise SetupError("--drain empties a worker, and --hosts changes hosts: say one of them")
    if hosts is not None:
        wanted = read_wanted(hosts)
        told = wanted if isinstance(wanted, str) else str(wanted) if isinstance(wanted, int) else ",".join(wanted)
        with options.connect() as client:
            show_moves(client.rebalance(RebalanceRequest(hosts=told)))
        out().print("the layers are shared out anew")
        return
    with options.connect() as client:
        moves = show_moves(client.rebalance(RebalanceRequest(drain_worker=drain)))
    out().print(f"{moves} experts moved" if moves else "the experts lie well as they are")
