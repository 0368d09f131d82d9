"""`numoe demo-model`: writes the demo model, or one of any shape with random weights."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from numoe.coordinator.commands.screen.progress import LoadingView
from numoe.coordinator.commands.screen.terminal import out
from numoe.coordinator.settings import LONG_WORD, POSITIVE, check_bounds
from numoe.protos.errors import SetupError
from numoe.protos.folders import cache_folder

if TYPE_CHECKING:  # numpy takes 0.3 s to import: each function that needs it imports what brings it
    from numoe.model.made_up.synthetic_shape import SyntheticShape

Shape = Literal["qwen3moe", "llama", "qwen3-30b-a3b", "qwen3-235b-a22b"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """The shape of a model with random weights; what is not said is as in --shape."""

    shape: Shape | None = None
    """Write random weights in this shape: a small model of an architecture, or a real model's sizes."""
    layers: Annotated[int | None, POSITIVE] = None
    """Layers."""
    width: Annotated[int | None, POSITIVE] = None
    """Values of a hidden state."""
    query_heads: Annotated[int | None, POSITIVE] = None
    """Query heads."""
    kv_heads: Annotated[int | None, POSITIVE] = None
    """Key and value heads."""
    head_size: Annotated[int | None, POSITIVE] = None
    """Values of a head."""
    experts: Annotated[int | None, POSITIVE] = None
    """Experts of a layer; 1 is a dense model (llama only)."""
    active_experts: Annotated[int | None, POSITIVE] = None
    """Experts that run for each token."""
    expert_width: Annotated[int | None, POSITIVE] = None
    """Values between the two halves of an expert."""
    vocabulary: Annotated[int | None, POSITIVE] = None
    """Token ids."""
    context_length: Annotated[int | None, POSITIVE] = None
    """Longest context."""
    type: str | None = None
    """Type of the weights, or the mix of types that files of such a name have: BF16, Q8_0, Q4_K_M. Default: Q8_0."""
    pure: bool = False
    """All matrices of the type that most matrices of --type have."""
    weights_seed: Annotated[int, LONG_WORD] = 0
    """The same seed gives the same file."""
    header_only: bool = False
    """Leave the weights out: the file has a hole of their size, takes no disk, and serves to plan with."""

    def synthetic(self) -> SyntheticShape | None:
        """The shape that was asked for; None: none was."""
        from numoe.model.made_up.synthetic_shape import PRESETS, SyntheticShape
        from numoe.model.made_up.type_mixes import named

        if self.shape is None:
            return None
        start = PRESETS.get(self.shape) or SyntheticShape()
        if self.shape == "llama":
            start = replace(start, architecture="llama")
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        sizes = {name: value for name, value in said.items() if value is not None and hasattr(start, name)}
        if self.type is not None:
            sizes["type"], mix = named(self.type.upper())
            sizes["mix"] = "" if self.pure else mix
        return replace(start, **sizes)


SHAPE_OPTIONS = ShapeOptions()


def demo_model(path: Path | None = None, /, *, shape: ShapeOptions = SHAPE_OPTIONS) -> None:
    """Write the model that `numoe serve` serves by default, or with --shape one of any size with random weights.

    Parameters
    ----------
    path
        Where to. Default: the cache, where serve looks for it; needed with --shape.
    shape
        Of a model with random weights.
    """
    check_bounds(shape)
    if shape.shape is None and shape != SHAPE_OPTIONS:
        raise SetupError("sizes are given without --shape: the default demo model has its own")
    with LoadingView() as view:
        if shape.shape is not None:
            if path is None:
                raise SetupError("--shape needs a PATH to write to")
            written = _write_synthetic_model(path, shape, view)
        else:
            written = find_demo_model(view) if path is None else _write_demo_model(path, view)
    out().print(str(written))


def find_demo_model(view: LoadingView) -> Path:
    """The demo model in the cache, made where it is not there yet."""
    path = cache_folder() / "demo.gguf"
    return path if path.exists() else _write_demo_model(path, view)


def _write_demo_model(path: Path, view: LoadingView) -> Path:
    from numoe.model.made_up.demo import write_demo_model

    _make_folder_of(path)
    write_demo_model(path, lambda done, total: view("making the demo model", done, total))
    return path


def _write_synthetic_model(path: Path, options: ShapeOptions, view: LoadingView) -> Path:
    from numoe.model.made_up.synthetic import write_synthetic_model

    _make_folder_of(path)
    shape = options.synthetic()
    assert shape is not None

    def report(done: int, total: int) -> None:
        view("writing", done, total)

    write_synthetic_model(path, shape, options.weights_seed, report, header_only=options.header_only)
    return path


def _make_folder_of(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{path.parent} cannot be made: {error.strerror}") from error
