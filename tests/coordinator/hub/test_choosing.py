"""Which files of a repository are the model that was asked for."""

from __future__ import annotations

import pytest

from numoe.coordinator.hub.choosing import choose_files, quantisations
from numoe.coordinator.hub.names import read_name
from numoe.protos.errors import SetupError
from tests.coordinator.hub.conftest import listed


def choose(paths: list[str], quant: str = "", file: str | None = None) -> list[str]:
    wanted = read_name("a/b" + (f":{quant}" if quant else ""), file)
    return [one.path for one in choose_files(map(listed, paths), wanted, "a/b")]


def parts(stem: str, count: int) -> list[str]:
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


MANY = [
    "README.md",
    "M-BF16.gguf",
    "M-IQ4_XS.gguf",
    "M-Q4_K_M.gguf",
    "M-Q4_K_S.gguf",
    "M-Q8_0.gguf",
    "M-UD-Q4_K_XL.gguf",
]


@pytest.mark.parametrize(
    ("quant", "expected"),
    [
        ("Q8_0", "M-Q8_0.gguf"),
        ("q4_k_s", "M-Q4_K_S.gguf"),
        ("UD-Q4_K_XL", "M-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", "M-UD-Q4_K_XL.gguf"),
        ("bf16", "M-BF16.gguf"),
        ("", "M-Q4_K_M.gguf"),
        ("latest", "M-Q4_K_M.gguf"),
    ],
)
def test_a_quantisation_is_found_by_its_name(quant: str, expected: str) -> None:
    assert choose(MANY, quant) == [expected]


@pytest.mark.parametrize("quant", ["Q4_K", "Q4", "F16", "Q4_XS", "Q6_K", ".*"])
def test_a_piece_of_a_name_is_none(quant: str) -> None:
    with pytest.raises(SetupError, match="a quantisation such as" if quant == ".*" else "a/b has no") as raised:
        choose(MANY, quant)
    if quant != ".*":
        assert str(raised.value).endswith("it has BF16, IQ4_XS, Q4_K_M, Q4_K_S, Q8_0, UD-Q4_K_XL")


def test_without_one_the_usual_is_taken_else_the_first() -> None:
    assert choose(["M-Q2_K.gguf", "M-Q8_0.gguf"]) == ["M-Q8_0.gguf"]
    assert choose(["z.gguf", "M-Q2_K.gguf"]) == ["M-Q2_K.gguf"]
    assert choose(["m_q2_k.gguf", "m_q4_k_m.gguf"]) == ["m_q4_k_m.gguf"]
    assert choose(["gpt-oss-20b-mxfp4.gguf", "mmproj-F16.gguf"]) == ["gpt-oss-20b-mxfp4.gguf"]


@pytest.mark.parametrize("stem", ["M-Q8_0", "Q8_0/model", "Q8_0/M-Q8_0", "deep/q8_0/m"])
def test_all_parts_of_a_split_are_taken_in_order(stem: str) -> None:
    paths = [*parts("M-Q4_K_M", 2), *reversed(parts(stem, 11)), "Q8_0.txt"]
    assert choose(paths, "Q8_0") == parts(stem, 11)


def test_what_is_no_model_is_left_out() -> None:
    others = ["mmproj-M-Q8_0.gguf", "imatrix-Q8_0.gguf", "mtp-M-Q8_0.gguf", "eagle3-M-Q8_0.gguf", "M-Q8_0.safetensors"]
    assert choose([*others, "z-Q8_0.gguf"], "Q8_0") == ["z-Q8_0.gguf"]
    with pytest.raises(SetupError, match="has no GGUF file"):
        choose(others)


def test_a_file_is_named_in_letters_of_either_case_and_by_any_part() -> None:
    assert choose(MANY, file="m-q8_0.GGUF") == ["M-Q8_0.gguf"]
    paths = parts("Q8_0/M", 3)
    assert choose(paths, file=paths[1]) == paths
    with pytest.raises(SetupError, match=r"did you mean Q8_0/M-00001-of-00003\.gguf"):
        choose(paths, file="M-00001-of-00003.gguf")
    with pytest.raises(SetupError, match=r"has no file x.gguf: it has BF16, IQ4_XS"):
        choose(MANY, file="x.gguf")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_split_that_is_not_whole_is_refused(lost: int) -> None:
    paths = parts("M-Q8_0", 3)
    missing = paths.pop(lost)
    with pytest.raises(SetupError, match=f"of 3 parts {missing} is missing"):
        choose(paths, "Q8_0")


def test_a_split_of_no_or_too_many_parts_is_refused() -> None:
    for name in ("M-Q8_0-00001-of-00000.gguf", "M-Q8_0-00001-of-99999.gguf"):
        with pytest.raises(SetupError, match="expected 1 to 1024"):
            choose([name], "Q8_0")


@pytest.mark.parametrize(
    "path",
    [
        "../Q8_0.gguf",
        "a/../../Q8_0.gguf",
        "/etc/Q8_0.gguf",
        "a//Q8_0.gguf",
        "./Q8_0.gguf",
        "a\\Q8_0.gguf",
        "\x1b]0;-Q8_0.gguf",
    ],
)
def test_a_path_that_leads_out_or_hides_signs_is_refused(path: str) -> None:
    with pytest.raises(SetupError, match="it is not fetched") as raised:
        choose([path], "Q8_0")
    assert "\x1b" not in str(raised.value)


def test_a_message_lists_twenty_kinds_at_most_and_nothing_raw() -> None:
    assert quantisations([listed(f"M-Q{n}_0.gguf") for n in range(10, 35)]).endswith(", Q29_0 and 5 more")
    assert quantisations([listed("\x1b[2J.gguf")]) == "?[2J.gguf"
