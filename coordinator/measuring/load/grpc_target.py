"""Asks a service of numoe over gRPC. All questions share one connection, as those of a client do."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import grpc

from numoe.client.channels import headers_of, open_aio_channel
from numoe.coordinator.access.credentials import Access
from numoe.coordinator.measuring.load.driving import AskFailed, Hear, Usage
from numoe.coordinator.measuring.load.questions import Question
from numoe.v1.generation_pb2 import ChatMessage, ChatRequest, GenerateRequest, Sampling, Stopping
from numoe.v1.generation_pb2_grpc import GenerationServiceStub

MESSAGE_CHARACTERS = 200


class GrpcTarget:
    """At one address, to be used in `async with`."""

    def __init__(self, address: str, access: Access, *, chat: bool) -> None:
        trust = access.trust
        credentials = (
            None if trust is None else grpc.ssl_channel_credentials(trust.authority, trust.key, trust.certificate)
        )
        self._channel = open_aio_channel(address, credentials)
        self._stub = GenerationServiceStub(self._channel)
        self._metadata = headers_of(access.key)
        self._chat = chat

    async def __aenter__(self) -> GrpcTarget:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def ask(self, question: Question, hear: Hear) -> Usage:
        """Returns once the answer is complete. Raises AskFailed."""
        how: dict[str, Any] = {
            "sampling": Sampling(
                temperature=question.temperature, seed=question.seed, top_k=question.top_k, top_p=question.top_p
            ),
            "stopping": Stopping(max_tokens=question.max_tokens, ignore_eos=True),
        }
        call: Any  # its type is that of one of two messages
        if self._chat:
            said = [ChatMessage(role="user", content=question.prompt)]
            call = self._stub.Chat(ChatRequest(messages=said, **how), metadata=self._metadata)
        else:
            call = self._stub.Generate(GenerateRequest(text=question.prompt, **how), metadata=self._metadata)
        usage = Usage()
        try:
            async for message in call:
                if message.HasField("delta"):
                    hear()
                if message.HasField("finished"):
                    counted = message.finished.usage
                    usage = Usage(counted.prompt_tokens, counted.completion_tokens)
        except grpc.aio.AioRpcError as error:
            raise AskFailed(f"{error.code().name}: {(error.details() or '')[:MESSAGE_CHARACTERS]}") from error
        finally:
            call.cancel()
        return usage
