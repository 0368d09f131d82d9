"""How operations on SIMD registers are made, which Numba sees as values.

A *vector* is 16 lanes: one row of a panel per lane. The operations are in loads.py, stores.py, words.py and
arithmetic.py. All of them are generic LLVM IR, which LLVM lowers to what the CPU has. Addresses are plain integers
(uintp), in bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

Code = Callable[[Any, Any], Any]  # (builder, values of the arguments) -> LLVM value of the result


def operation(result: types.Type, *arguments: types.Type) -> Callable[[Code], Any]:
    """Make an intrinsic of fixed types from a function that generates its code."""

    def decorate(generate: Code) -> Any:
        def typing_of(_typing_context: Any, *_given: Any) -> Any:
            def code(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
                made = generate(builder, values)
                return context.get_dummy_value() if result is types.void else made

            return result(*arguments), code

        names = ["typing_context", *(f"operand{index}" for index in range(len(arguments)))]
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        typing_of.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        typing_of.__name__, typing_of.__doc__ = generate.__name__, generate.__doc__
        return intrinsic(typing_of)

    return decorate
