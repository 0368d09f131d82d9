"""RoPE scaling that an operator chooses instead of what a file says, and files that say too little.

Early conversions of Qwen3 for 128K state 131072 positions and no scaling, so that engines ran them as if they had been
trained for so many; later ones say YaRN. YaRN lets answers on short texts suffer (so Qwen's own model card), hence
`auto` gives it to an early file only where more is served than what the model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from numoe.model.gguf.model_file import GgufFile
from numoe.model.gguf.values import Value
from numoe.protos.errors import SetupError

Scaling = Literal["none", "linear", "yarn"]
# Qwen3: as its configuration states it, and what YaRN counts from; the difference is room for an answer.
TRAINED = {"qwen3moe": (40960, 32768)}
USUAL_FACTOR = 4.0  # of YaRN, as Qwen3's model card has it


@dataclass(frozen=True, slots=True)
class RopeChoice:
    """What an operator says; None: nothing."""

    yarn: Literal["auto", "on", "off"] = "auto"
    scaling: Scaling | None = None  # none, linear or yarn, whatever `yarn` says
    factor: float | None = None
    original_context: int | None = None  # positions that YaRN counts from
    base: float | None = None  # of the frequencies


def choose_rope(file: GgufFile, choice: RopeChoice, context_tokens: int) -> tuple[GgufFile, str]:
    """The file with the chosen scaling in its metadata, and a remark for the operator, "" for none.

    Args:
        context_tokens: positions that a request is to have at most.

    Raises:
        SetupError: what is chosen needs a number that neither operator nor file gives.
    """
    name = file.metadata.get("general.architecture")
    keys = _Keys(file.metadata, str(name))
    scaling, remark = _scaling(keys, choice, context_tokens)
    changes: dict[str, Value] = {} if choice.base is None else {"rope.freq_base": choice.base}
    if scaling is not None:
        changes |= _changes(keys, choice, scaling)
    elif choice.factor is not None or choice.original_context is not None:
        raise SetupError("--rope-scale and --yarn-orig-ctx need a scaling: say --rope-scaling linear or yarn, too")
    metadata = {**file.metadata, **{f"{name}.{key}": value for key, value in changes.items()}}
    return replace(file, metadata=MappingProxyType(metadata)), remark


@dataclass(frozen=True, slots=True)
class _Keys:
    """What a file says of its context."""

    metadata: Mapping[str, Value]
    name: str

    def number(self, key: str) -> float:
        """A number; 0 where there is none (what is no number is refused when the model is read)."""
        value = self.metadata.get(f"{self.name}.{key}")
        return value if isinstance(value, int | float) and not isinstance(value, bool) else 0

    @property
    def context(self) -> int:
        return int(self.number("context_length"))

    @property
    def scaling(self) -> str:
        value = self.metadata.get(f"{self.name}.rope.scaling.type")
        return value if isinstance(value, str) else ""

    @property
    def says_too_little(self) -> bool:
        """Whether it states a context that its model was not trained on, and not how to reach it."""
        trained, _ = TRAINED.get(self.name, (self.context, 0))
        return self.context > trained and not self.scaling and not self.number("rope.scaling.factor")


def _scaling(keys: _Keys, choice: RopeChoice, context_tokens: int) -> tuple[Scaling | None, str]:
    """Which scaling to set, None for the file's own, and what to tell the operator."""
    if choice.scaling is not None:
        return choice.scaling, ""
    if choice.yarn != "auto":
        return ("yarn" if choice.yarn == "on" else "none"), ""
    if not keys.says_too_little:
        return (None if choice.factor is None else "linear"), _remark_on_yarn(keys, context_tokens)
    trained, _ = TRAINED[keys.name]
    told = f"the file states {keys.context} positions and no RoPE scaling, its model was trained on {trained}"
    if context_tokens > trained:
        return "yarn", f"{told}: YaRN reaches {context_tokens}; --yarn off runs without"
    return None, f"{told}: enough for what is served; with a --context-tokens beyond it YaRN would be used"


def _remark_on_yarn(keys: _Keys, context_tokens: int) -> str:
    original = int(keys.number("rope.scaling.original_context_length"))
    if keys.scaling != "yarn" or context_tokens > original:
        return ""
    return (
        f"the file asks for YaRN, and no more than {original} positions are served: --yarn off suits short texts better"
    )


def _changes(keys: _Keys, choice: RopeChoice, scaling: Scaling) -> dict[str, Value]:
    if scaling == "none":
        return {"rope.scaling.type": "none"}
    trained, counted = TRAINED.get(keys.name, (keys.context, keys.context))
    stated = int(keys.number("rope.scaling.original_context_length"))
    original = choice.original_context or stated or (counted if scaling == "yarn" else trained)
    factor = choice.factor or keys.number("rope.scaling.factor")
    if not factor and keys.says_too_little:
        factor = keys.context / original
    if not factor and keys.name in TRAINED and scaling == "yarn":
        factor = USUAL_FACTOR
    if not factor:
        raise SetupError(f"RoPE scaling {scaling} needs a factor, which the file does not state: say --rope-scale, too")
    return {
        "rope.scaling.type": scaling,
        "rope.scaling.factor": float(factor),
        "rope.scaling.original_context_length": original,
        "context_length": max(keys.context, round(original * factor)),
    }
