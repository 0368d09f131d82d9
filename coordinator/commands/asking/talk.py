"""A conversation on a terminal: reads a turn, shows the answer, and goes on whatever became of it.

Guarantees: no failure of a turn ends a conversation that a person types, or loses what was said before; where standard
input is no terminal, nobody could react, and the first failure ends the command. An answer that a failure cut off is
not kept; one that Ctrl-C or the limit cut off is.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress

from numoe.coordinator.commands.asking.answers import AnswerView, check_text
from numoe.coordinator.commands.asking.client import Client
from numoe.coordinator.commands.asking.conversation import Conversation
from numoe.coordinator.commands.asking.patience import CallError
from numoe.coordinator.commands.screen.terminal import err, out, show_error
from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import harmless
from numoe.v1.generation_pb2 import FINISH_REASON_LENGTH, ChatRequest

# As llama-cli and `ollama run` call them, where they have them; /undo and /drop are known from aider.
HELP = """\
/regen      answer again what was said last, or what got no answer
/undo       take back the last turn
/drop [N]   forget the oldest turn, or N of them, so that the rest fits the context
/clear      forget all turns; --system stays
/help, /?   show this
/exit, /bye end the conversation, as Ctrl-D does
Ctrl-C ends an answer, and what there is of it stays in the conversation."""
COMMAND = re.compile(r"/([a-z]+|\?)(?: +([0-9]+))?")  # "/etc/hosts" and "/drop it" are things to say
SHARE_OF_CONTEXT = 4  # an answer takes at most the fourth part, so that three more fit: the first would take all


def talk(client: Client, system: str | None, how: ChatRequest) -> None:
    """Hold a conversation until Ctrl-D or /exit; `how` to answer is a request without messages.

    Raises CallError where no person is there to react.
    """
    if sys.stdin is None or sys.stdout is None:
        raise SetupError("standard input or output is closed: give TEXT")
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):  # some builds of Python are without it
            import readline  # noqa: F401  # lets the lines that `input` reads be edited and called back
    Talk(client, Conversation(system), how).run()


class Talk:
    """One conversation with a service."""

    def __init__(self, client: Client, conversation: Conversation, how: ChatRequest) -> None:
        self._client = client
        self._conversation = conversation
        self._how = ChatRequest()
        self._how.CopyFrom(how)
        self._typed = sys.stdin.isatty()
        self._out, self._remarks = out(), err()
        model = client.model()
        if not model.chat_template:
            raise CallError(f"{model.name} has no chat template that works, which turns need: use `numoe generate`")
        self._context_tokens = model.context_tokens
        if not how.stopping.HasField("max_tokens"):
            self._how.stopping.max_tokens = max(1, model.context_tokens // SHARE_OF_CONTEXT)
        if self._typed:
            self._remark(f"{model.name}, a context of {model.context_tokens} tokens; /help lists what else may be said")

    def run(self) -> None:
        """Turn after turn."""
        try:
            while (line := self._read()) not in ("/exit", "/bye"):
                command = COMMAND.fullmatch(line)
                if command:
                    self._obey(command[1], command[2])
                elif line:
                    self._conversation.say(line)
                    self._answer()
        except EOFError:
            self._out.out("")

    def _read(self) -> str:
        """The next line; one that is no text is told, and counts as nothing said."""
        try:
            return check_text("the line", input("> ").strip())
        except (UnicodeDecodeError, SetupError):
            show_error("the line holds bytes that are no text in this encoding; it was not sent")
        except KeyboardInterrupt:
            if not self._typed:
                raise EOFError from None
            self._out.out("")
            self._remark("Ctrl-D or /exit ends the conversation")
        return ""

    def _obey(self, name: str, number: str | None) -> None:
        match name:
            case "regen":
                if self._conversation.say_again():
                    self._answer()
                else:
                    self._remark("nothing was said yet")
            case "undo":
                self._remark(self._conversation.undo())
            case "drop":
                self._remark(self._conversation.drop(int(number or 1)))
            case "clear":
                self._remark(self._conversation.clear())
            case "help" | "?":
                self._remark(HELP)
            case _:
                show_error(f"/{name} is unknown and was not sent; /help lists what there is")

    def _answer(self) -> None:
        """Have what was said answered, and say what became of it."""
        view = AnswerView()
        try:
            self._ask(view)
        except KeyboardInterrupt:
            if not view.text:
                self._conversation.fail()
                self._remark("\nnothing was answered; /regen asks again")
                return
        except CallError as error:
            if not self._typed:
                raise
            self._conversation.fail()
            show_error(f"{error}; {self._advice(error, view)}")
            return
        self._conversation.keep(view.text)
        if view.finished and view.finished.reason == FINISH_REASON_LENGTH:
            self._remark(self._how_to_go_on(view))

    def _ask(self, view: AnswerView) -> None:
        request = ChatRequest(messages=self._conversation.messages())
        request.MergeFrom(self._how)
        try:
            view.show(self._client.chat(request))
        except CallError as error:
            if error.field != "stopping.max_tokens" or not request.stopping.max_tokens:
                raise
            request.stopping.ClearField("max_tokens")  # less fits, and that is as much as there may be
            view.show(self._client.chat(request))

    def _advice(self, error: CallError, view: AnswerView) -> str:
        if error.field == "messages":
            if not len(self._conversation):
                return "say less"
            return "the conversation is kept: /drop forgets its oldest turn, then /regen asks again"
        if view.text:
            return "the answer so far is not kept, the conversation is: /regen asks again"
        return "the conversation is kept: /regen asks again"

    def _how_to_go_on(self, view: AnswerView) -> str:
        assert view.finished is not None
        usage = view.finished.usage
        if usage.prompt_tokens + usage.completion_tokens >= self._context_tokens:
            return f"cut off, as the context of {self._context_tokens} tokens is full: /drop forgets the oldest turn"
        return (
            f"cut off after {usage.completion_tokens} tokens, the most for one answer: "
            'say "go on", or allow more with --max-tokens'
        )

    def _remark(self, text: str) -> None:
        self._remarks.print(harmless(text, kept="\n"), style="dim" if self._remarks.is_terminal else None)
