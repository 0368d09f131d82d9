"""The client's plain data has all that the messages of numoe.v1 have."""

from __future__ import annotations

from dataclasses import fields

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict

import numoe.client
from numoe.client import (
    ChatMessage,
    Choice,
    Conversation,
    Dry,
    ExpertReduction,
    Finished,
    Guided,
    Settings,
    StopMatch,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from numoe.client.events import read_event
from numoe.client.questions import chat_request, generate_request
from numoe.v1 import generation_pb2 as v1
from numoe.v1 import model_pb2
from numoe.v1.generation_pb2 import (
    FINISH_REASON_TOOL_CALLS,
    PRIORITY_BATCH,
    TOOL_CHOICE_MODE_REQUIRED,
    ChatRequest,
    GenerateRequest,
    GenerateResponse,
)

REQUESTS = (GenerateRequest.DESCRIPTOR, ChatRequest.DESCRIPTOR)
IN_SETTINGS = {"Sampling", "Stopping", "ResponseOptions"}  # whose fields Settings has
BY_ARGUMENTS = {"text", "token_ids", "parse_special"}  # of Client.generate
SAID = [
    *("Accepted", "PromptProgress", "PromptTokens", "Delta", "Token", "Alternative", "ToolCallDelta", "Resumed"),
    *("Finished", "StopMatch", "Usage", "Timings", "Dry", "Breakers", "ExpertReduction", "Guided", "Choice"),
    *("ChatMessage", "Tool", "ToolCall", "ToolChoice", "Thinking"),
]


def names_of(message: Descriptor) -> set[str]:
    return {field.name for field in message.fields}


def data_fields(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


@pytest.mark.parametrize("name", SAID)
def test_a_class_has_the_fields_of_its_message(name: str) -> None:
    more = {"request_id"} if name == "Accepted" else set()
    assert data_fields(getattr(numoe.client, name)) == names_of(getattr(v1, name).DESCRIPTOR) | more


def test_a_model_has_the_fields_of_its_message() -> None:
    for name in ("Model", "TensorTypeShare"):
        assert data_fields(getattr(numoe.client, name)) == names_of(getattr(model_pb2, name).DESCRIPTOR)


def test_requests_can_say_all_that_their_messages_can() -> None:
    settings = data_fields(Settings)
    groups = {field.name for request in REQUESTS for field in request.fields if _kind(field) in IN_SETTINGS}
    within = {name for kind in IN_SETTINGS for name in names_of(getattr(v1, kind).DESCRIPTOR)}
    generate, chat = (names_of(request) - groups for request in REQUESTS)
    assert settings == within | (generate - BY_ARGUMENTS) & chat
    assert chat == (settings - within) | data_fields(Conversation)
    assert not settings & data_fields(Conversation)


def _kind(field: object) -> str:
    message = getattr(field, "message_type", None)
    return "" if message is None else message.name


def test_settings_come_to_lie_where_the_message_has_them() -> None:
    settings = Settings(
        max_tokens=5, stop=["a"], temperature=0.5, logit_bias={3: -1.0}, dry=Dry(1.0), top_logprobs=2, priority="batch",
        guided=Guided(choice=Choice(["x", "y"])), experts=ExpertReduction(fewest=2), request_id="r",
    )  # fmt: skip
    request = generate_request("hi", settings, parse_special=True)
    assert request == GenerateRequest(
        text="hi",
        parse_special=True,
        request_id="r",
        sampling=v1.Sampling(temperature=0.5, logit_bias={3: -1.0}, dry=v1.Dry(multiplier=1.0)),
        stopping=v1.Stopping(max_tokens=5, stop=["a"]),
        response=v1.ResponseOptions(top_logprobs=2),
        experts=v1.ExpertReduction(fewest=2),
        guided=v1.Guided(choice=v1.Choice(texts=["x", "y"])),
        priority=PRIORITY_BATCH,
    )
    assert generate_request([1, 2], Settings(), parse_special=False).token_ids.ids == [1, 2]
    assert not generate_request("hi", Settings(), parse_special=False).HasField("guided")


def test_a_conversation_is_told_whole_and_a_text_is_what_a_user_says() -> None:
    call = ToolCall("c", "f", "{}")
    conversation = Conversation(
        [ChatMessage("assistant", "a", "r", [call]), ChatMessage("tool", "t", tool_call_id="c", name="f")],
        [Tool("f", "does", "{}")],
        ToolChoice(mode="required"),
        parallel_tool_calls=False,
        template_variables={"deep": {"list": [1, "x", None]}},
        thinking=Thinking(budget_tokens=9),
    )
    request = chat_request(conversation, Settings(seed=1))
    first, second = request.messages
    assert (first.content, first.reasoning, first.tool_calls[0].name) == ("a", "r", "f")
    assert (second.role, second.tool_call_id) == ("tool", "c")
    assert (request.tools[0].description, request.tool_choice.mode) == ("does", TOOL_CHOICE_MODE_REQUIRED)
    assert (request.HasField("parallel_tool_calls"), request.parallel_tool_calls) == (True, False)
    assert MessageToDict(request.template_variables) == {"deep": {"list": [1, "x", None]}}
    assert (request.thinking.budget_tokens, request.sampling.seed) == (9, 1)
    assert chat_request("hi", Settings()) == ChatRequest(messages=[v1.ChatMessage(role="user", content="hi")])


def test_events_are_read_with_what_is_absent_as_none() -> None:
    finished = v1.Finished(
        reason=FINISH_REASON_TOOL_CALLS, stop=v1.StopMatch(token_id=3), usage=v1.Usage(), timings=v1.Timings()
    )
    event = read_event(GenerateResponse(finished=finished))
    assert isinstance(event, Finished)
    assert (event.reason, event.stop, event.usage.mean_experts) == ("tool_calls", StopMatch(None, 3), None)
    newer = v1.Finished(usage=v1.Usage(), timings=v1.Timings())
    newer.MergeFromString(b"\x08\x63")  # reason 99
    event = read_event(GenerateResponse(finished=newer))
    assert isinstance(event, Finished)
    assert event.reason == "99"
    assert read_event(GenerateResponse(failed=v1.Failed(reason="X"))) is None
