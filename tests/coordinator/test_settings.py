"""Settings from flags, environment and file, and what is refused before anything starts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from numoe.coordinator.commands.main import app
from numoe.coordinator.settings import (
    KV_TYPES,
    EngineSettings,
    ListenSettings,
    ServeSettings,
    WorkerSettings,
    check_settings,
    context_tokens,
    expert_reduction,
    http_address,
    kv_tokens,
    kv_types,
)
from numoe.model.gguf.tensors import TensorType
from numoe.protos.errors import SetupError
from numoe.protos.expert_reduction import ExpertReduction


def parsed(*flags: str) -> ServeSettings:
    """What `numoe serve` would run with."""
    _, bound, _ = app.parse_args(["serve", "model.gguf", *flags])
    settings = bound.arguments.get("settings", ServeSettings())
    assert isinstance(settings, ServeSettings)
    return settings


def test_defaults_hold_where_nothing_is_said() -> None:
    assert parsed() == ServeSettings()


def test_a_flag_beats_the_environment_and_that_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "numoe.toml"
    file.write_text("step_tokens = 100\nsequences = 11\nqueue_length = 12\nworkers = 3\nkv-type = 'f32'\n")
    monkeypatch.setenv("NUMOE_CONFIG", str(file))
    monkeypatch.setenv("NUMOE_STEP_TOKENS", "200")
    monkeypatch.setenv("NUMOE_SEQUENCES", "21")
    settings = parsed("--step-tokens", "300", "--insecure")
    assert settings == ServeSettings(
        ListenSettings(insecure=True),
        WorkerSettings(workers=3),
        EngineSettings(step_tokens=300, sequences=21, queue_length=12, kv_type="f32"),
    )


@pytest.mark.parametrize("name", ["f16", "bf16", "q8_0", "f32"])
def test_a_type_of_keys_and_values_can_be_named(name: str) -> None:
    settings = parsed("--kv-type", name)
    assert settings.engine.kv_type == name
    assert KV_TYPES[settings.engine.kv_type].name.lower() == name


def test_keys_and_values_can_have_types_of_their_own() -> None:
    assert kv_types(parsed().engine) == (TensorType.F16, TensorType.F16)
    assert kv_types(parsed("--cache-type-k", "q8_0").engine) == (TensorType.Q8_0, TensorType.F16)
    both = parsed("--kv-type", "bf16", "--cache-type-v", "f32")
    assert kv_types(both.engine) == (TensorType.BF16, TensorType.F32)


def test_an_unknown_type_of_keys_and_values_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--kv-type", "q4_0")
    assert "q8_0" in capsys.readouterr().err


def test_several_nodes_can_be_named() -> None:
    assert parsed("--nodes", "1", "--nodes", "0").workers.nodes == (1, 0)


def test_a_file_that_is_missing_or_says_something_unknown_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SetupError, match="does not exist"):
        app.parse_args(["serve", "--config", str(tmp_path / "none.toml")])
    file = tmp_path / "numoe.toml"
    file.write_text("step_tokenz = 100\n")
    with pytest.raises(SystemExit):
        app.parse_args(["serve", "--config", str(file)])
    assert "step_tokenz" in capsys.readouterr().err


def test_other_addresses_need_to_be_asked_for() -> None:
    with pytest.raises(SetupError, match="--insecure"):
        check_settings(ServeSettings(ListenSettings(address="0.0.0.0:1")))
    check_settings(ServeSettings(ListenSettings(address="0.0.0.0:1", insecure=True)))


KEYS, CERTIFICATE, KEY = Path("keys"), Path("c.pem"), Path("c.key")


def test_other_addresses_are_served_with_keys_and_certificates() -> None:
    check_settings(
        ServeSettings(ListenSettings("0.0.0.0:1", "0.0.0.0:2", api_keys=KEYS, tls_certificate=CERTIFICATE, tls_key=KEY))
    )


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        (ListenSettings("0.0.0.0:1", api_keys=KEYS), "and --tls-certificate to guard it is missing"),
        (
            ListenSettings("0.0.0.0:1", tls_certificate=CERTIFICATE, tls_key=KEY),
            "and --api-keys to guard it is missing",
        ),
        (ListenSettings("0.0.0.0:1"), "--api-keys and --tls-certificate"),
        (ListenSettings(tls_certificate=CERTIFICATE), "belong together"),
        (ListenSettings(tls_key=KEY), "belong together"),
        (ListenSettings(tls_client_ca=CERTIFICATE), "--tls-client-ca needs --tls-certificate"),
    ],
)
def test_half_a_guard_is_refused(listen: ListenSettings, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        check_settings(ServeSettings(listen))


@pytest.mark.parametrize(
    "change",
    [
        {"step_tokens": 0},
        {"sequences": -1},
        {"context_tokens": 0},
        {"kv_tokens": 0},
        {"prefill_chunk": 0},
        {"prefill_chunk": 513},
        {"queue_length": -1},
        {"request_timeout_seconds": 0.0},
        {"drain_timeout_seconds": -1.0},
        {"request_timeout_seconds": math.nan},
        {"request_timeout_seconds": math.inf},
        {"drain_timeout_seconds": math.nan},
        {"drain_timeout_seconds": math.inf},
    ],
)
def test_what_cannot_work_is_refused_by_its_flag(change: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="--" + next(iter(change)).replace("_", "-")):
        check_settings(replace(ServeSettings(), engine=replace(EngineSettings(), **change)))


@pytest.mark.parametrize("flag", ["--kv-store", "--slot-save-path"])
@pytest.mark.parametrize("other", [("--prefix-cache", "off"), ("--hosts", "2")])
def test_blocks_are_not_put_into_files_where_there_are_none_or_each_host_has_a_part(
    flag: str, other: tuple[str, str]
) -> None:
    check_settings(parsed(flag, "folder"))
    with pytest.raises(SetupError, match=f"{flag} keeps .*{other[0]}"):
        check_settings(parsed(flag, "folder", *other))


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_number_without_end_is_refused_by_its_flag(number: str) -> None:
    with pytest.raises(SetupError, match=f"^--request-timeout-seconds is {number}, expected more than 0 and finite$"):
        check_settings(parsed("--request-timeout-seconds", number))


def test_contexts_follow_the_model_and_are_limited() -> None:
    assert context_tokens(EngineSettings(), 40_960) == 8192
    assert context_tokens(EngineSettings(), 2048) == 2048
    assert context_tokens(EngineSettings(context_tokens=20_000), 40_960) == 20_000
    assert context_tokens(EngineSettings(context_tokens=50_000), 40_960) == 40_960
    assert kv_tokens(EngineSettings(), 2048) == 4 * 2048
    assert kv_tokens(EngineSettings(kv_tokens=5000), 2048) == 5000


@pytest.mark.parametrize(
    ("address", "http", "served"),
    [
        ("127.0.0.1:50151", None, "127.0.0.1:50152"),
        ("0.0.0.0:80", None, "127.0.0.1:81"),  # never beyond loopback without being told to
        ("127.0.0.1:0", None, "127.0.0.1:0"),
        ("[::1]:7", None, "127.0.0.1:8"),
        ("127.0.0.1:65535", None, ""),
        ("unix:/run/numoe", None, ""),
        ("127.0.0.1:50151", "off", ""),
        ("unix:/run/numoe", "[::1]:9", "[::1]:9"),
    ],
)
def test_http_is_served_beside_grpc_unless_told_otherwise(address: str, http: str | None, served: str) -> None:
    assert http_address(ListenSettings(address=address, http_address=http)) == served


@pytest.mark.parametrize(
    ("http", "problem"),
    [
        ("0.0.0.0:80", "0.0.0.0:80 can be reached from outside"),
        ("8080", "has no port"),
        ("unix:/run/numoe", "expected HOST:PORT or off"),
    ],
)
def test_http_beyond_loopback_or_nowhere_is_refused(http: str, problem: str) -> None:
    with pytest.raises(SetupError, match=problem):
        check_settings(ServeSettings(ListenSettings(http_address=http)))


def test_http_beyond_loopback_is_served_to_whom_says_insecure() -> None:
    check_settings(ServeSettings(ListenSettings(http_address="0.0.0.0:80", insecure=True)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("6,1", (6, 1.0)), ("1,0.3", (1, 0.3)), ("1, 0", (1, 0.0)), ("4", (4, 1.0)), ("200,0.5", (200, 0.5))],
)
def test_a_reduction_of_experts_is_read_as_its_users_write_it(text: str, expected: tuple[int, float]) -> None:
    settings = parsed("--smart-expert-reduction", text)
    check_settings(settings)
    assert expert_reduction(settings.engine) == ExpertReduction(*expected)


@pytest.mark.parametrize("text", ["", "0,1", "-1,0", "6,1.5", "6,-1", "6,nan", "a,1", "1,6,1", "1.5,1", ",1", "6,"])
def test_a_reduction_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=r"--smart-expert-reduction is .*, expected KMIN,T"):
        check_settings(ServeSettings(engine=EngineSettings(smart_expert_reduction=text)))


def test_several_keys_of_the_file_can_be_overridden() -> None:
    settings = parsed("--override-kv", "a.b=int:1", "--override-kv", "a.c=str:x")
    assert settings.model.override_kv == ("a.b=int:1", "a.c=str:x")
