"""What is compiled ahead of time is named in full."""

from __future__ import annotations

import pytest

from numoe.worker.running.ahead import main


@pytest.mark.parametrize("name", ["portable", "avx", "Q9_9"])
def test_a_name_of_nothing_that_can_be_compiled_ahead_is_refused(name: str) -> None:
    with pytest.raises(SystemExit, match=rf"^{name} is neither of avx512vnni, .*avx2 nor of F32, .*values$"):
        main(["avx2", name])
