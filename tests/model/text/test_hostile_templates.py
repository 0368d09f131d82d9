"""A hostile chat template ends quickly in a typed error and harms nobody."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from io import BytesIO

import pytest

from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.template_process import read_message, write_message
from numoe.protos.errors import InvalidRequest, UnsupportedModel
from tests.model.text.chat_templates import USER, started

SECONDS = 10.0  # far above the limit on processor time, for busy machines


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages",
        "{% for m in messages %}",
        "{{ 1 / 0 }}",
        "{{ no_such_function() }}",
        "{{ messages[0].a.b.c }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.environ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__['sys'].exit() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(100000000) %}a{% endfor %}",
        "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 100000000000 }}",
        "{{ 'x' * 2000000 }}",
        "{{ '%2000000000d' | format(1) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set x = 'a' * 1000000 %}{{ x | replace('a', x) | length }}",
        "{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
        "{{ 1" + " + 1" * 300_000 + " }}",
        "{{ " + "not " * 300_000 + "1 }}",
        "{{ " + "(" * 300_000 + "1" + ")" * 300_000 + " }}",
    ],
    ids=lambda text: text[:50],
)
def test_a_broken_or_hostile_template_is_unsupported_and_ends_soon(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(UnsupportedModel, match="chat template") as refusal:
        ChatTemplate(text, "", "")
    assert time.monotonic() - start < SECONDS
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("name", ["__class__", "__init__", "__globals__", "keys.__self__", "__getattribute__"])
@pytest.mark.parametrize("thing", ["messages", "messages[0]", "messages[0].content", "raise_exception", "strftime_now"])
def test_nothing_of_python_can_be_reached(thing: str, name: str) -> None:
    with suppress(UnsupportedModel), started(f"[{{{{ {thing}.{name} }}}}]") as chat_template:
        assert chat_template.render(USER) == "[]"


SLOW = "{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}"


SLOW_FOR_SOME = f"{{% if messages[0].role == 'slow' %}}{SLOW}{{% endif %}}ok"


def test_messages_that_break_a_limit_are_refused_and_the_next_ones_served() -> None:
    with started(SLOW_FOR_SOME) as chat_template:
        with pytest.raises(InvalidRequest, match=r"takes more than 1 s"):
            chat_template.render([{"role": "slow"}])
        assert chat_template.render(USER) == "ok"


def test_a_killed_process_is_replaced() -> None:
    with started("{{ messages[0].role }}") as chat_template:
        assert chat_template._process is not None
        os.kill(chat_template._process._child.pid, signal.SIGKILL)
        chat_template._process._child.wait()
        assert chat_template.render(USER) == "user"


def test_a_process_that_stands_still_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with started("{{ messages[0].role }}") as chat_template:
        monkeypatch.setattr("numoe.model.text.chat_template.WALL_SECONDS", 0.2)
        assert chat_template._process is not None
        os.kill(chat_template._process._child.pid, signal.SIGSTOP)
        with pytest.raises(InvalidRequest, match="in all"):
            chat_template.render(USER)
        monkeypatch.undo()
        assert chat_template.render(USER) == "user"


def test_the_process_ends_with_its_template() -> None:
    with started("x") as chat_template:
        assert chat_template._process is not None
        child = chat_template._process._child
        assert child.poll() is None
    assert child.poll() is not None


@pytest.mark.parametrize(
    "text",
    ["\x1b]0;owned\x07", "\x9b31m", "a\nb\r", "\u202egpj.exe", "a" * 100_000_000],
    ids=lambda text: ascii(text[:9]),
)
def test_the_words_of_a_refusal_are_short_and_harmless(text: str) -> None:
    raised = f"raise_exception({text[:40]!a} * {max(1, len(text) // 40)})"
    source = f"{{% if messages[0].role == 'x' %}}{{{{ {raised} }}}}{{% endif %}}"
    with started(source) as chat_template:
        with pytest.raises(InvalidRequest, match="refuses them") as refusal:
            chat_template.render([{"role": "x"}])
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 600
        assert chat_template.render(USER) == ""


def test_a_reply_beyond_what_a_rendering_may_take_is_not_read() -> None:
    pipe = BytesIO()
    write_message(pipe, b"x" * 101)
    assert read_message(BytesIO(pipe.getvalue()), 101) == b"x" * 101
    assert read_message(BytesIO(pipe.getvalue()), 100) is None


def test_a_template_that_refuses_a_greeting_makes_no_chat_unless_it_asks_for_a_system_message() -> None:
    with pytest.raises(UnsupportedModel, match=r"refuses a greeting: never\?") as refusal:
        ChatTemplate("{{ raise_exception('never\x1b') }}", "", "")
    assert str(refusal.value).isprintable()
    wants = "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}ok"
    with started(wants) as chat_template:
        assert chat_template.render([{"role": "system", "content": ""}]) == "ok"
