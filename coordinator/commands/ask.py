"""`numoe generate` and `numoe chat`: ask a running service."""

from __future__ import annotations

from numoe.coordinator.commands.asking.answers import AnswerView, check_text, read_text
from numoe.coordinator.commands.asking.conversation import Conversation
from numoe.coordinator.commands.options import CALL_OPTIONS, CallOptions
from numoe.coordinator.settings import read_reduction
from numoe.v1.generation_pb2 import ChatRequest, ExpertReduction, GenerateRequest, Sampling, Stopping


def generate(text: str | None = None, /, *, options: CallOptions = CALL_OPTIONS, parse_special: bool = False) -> None:
    """Continue a text; the answer streams to standard output.

    Parameters
    ----------
    text
        The text to continue. Default: what standard input holds.
    options
        Which service, and how to draw.
    parse_special
        Let control tokens written in the text, such as <|im_end|>, become those tokens.
    """
    prompt = read_text() if text is None else check_text("TEXT", text)
    with options.connect() as client:
        request = GenerateRequest(
            text=prompt,
            parse_special=parse_special,
            sampling=_sampling(options),
            stopping=_stopping(options),
            experts=_experts(options),
        )
        AnswerView().show(client.generate(request))


def chat(text: str | None = None, /, *, options: CallOptions = CALL_OPTIONS, system: str | None = None) -> None:
    """Talk to the model; with TEXT one answer, without it a conversation.

    Parameters
    ----------
    text
        What to say. Default: a conversation, each line of standard input a turn; /help lists what else may be said.
    options
        Which service, and how to draw.
    system
        Instructions for the whole conversation. Default: what the model's template has.
    """
    instructions = check_text("--system", system) if system else None
    if text is not None:
        check_text("TEXT", text)
    with options.connect() as client:  # which refuses numbers that no message can hold
        how = ChatRequest(sampling=_sampling(options), stopping=_stopping(options), experts=_experts(options))
        if text is None:
            from numoe.coordinator.commands.asking.talk import talk  # brings gRPC, as connecting does

            talk(client, instructions, how)
        else:
            request = ChatRequest(messages=Conversation(instructions, said=text).messages())
            request.MergeFrom(how)
            AnswerView().show(client.chat(request))


def _sampling(options: CallOptions) -> Sampling:
    """What was said of drawing; the rest is left to the service."""
    return Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
    )


def _stopping(options: CallOptions) -> Stopping:
    return Stopping(max_tokens=options.max_tokens, stop=[check_text("--stop", stop) for stop in options.stop or ()])


def _experts(options: CallOptions) -> ExpertReduction | None:
    if options.smart_expert_reduction is None:
        return None
    asked = read_reduction(options.smart_expert_reduction)
    return ExpertReduction(fewest=asked.fewest, threshold=asked.threshold)
