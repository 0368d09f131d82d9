"""What clients of llama-server find here beside OpenAI's API."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from numoe.protos.messages import Sampling
from tests.coordinator.api.grpc.grpc_serving import fake_workers, running_server, small_workers, until
from tests.coordinator.api.http.http_client import Reply, ask
from tests.coordinator.api.http.openai_serving import HELLO, MODEL
from tests.coordinator.engine.serving import Gate
from tests.coordinator.tiny_tokenizer import TOKENIZER


async def post(http: str, path: str, content: Any) -> Reply:
    return await ask(http, path, "POST", json.dumps(content).encode())


async def test_texts_become_tokens_and_tokens_texts() -> None:
    async with running_server() as running:
        http = running.ready.http
        ids = TOKENIZER.encode("a<|im_end|>é")
        assert (await post(http, "/tokenize", {"content": "a<|im_end|>é"})).json == {"tokens": ids}
        plain = (await post(http, "/tokenize", {"content": "a<|im_end|>", "parse_special": False})).json["tokens"]
        [end] = TOKENIZER.encode("<|im_end|>")
        assert end in ids
        assert end not in plain
        pieces = (await post(http, "/tokenize", {"content": "aé", "with_pieces": True})).json["tokens"]
        assert [one["piece"] for one in pieces] == ["a", [0xC3], [0xA9]]
        assert (await post(http, "/detokenize", {"tokens": plain})).json == {"content": "a<|im_end|>"}
        assert (await post(http, "/detokenize", {"tokens": ids})).json == {"content": "a<|im_end|>é"}
        for wrong in ([-1], [5, 331]):
            refused = await post(http, "/detokenize", {"tokens": wrong})
            assert (refused.status, refused.json["error"]["param"]) == (400, f"tokens[{len(wrong) - 1}]")
        refused = await post(http, "/tokenize", {"content": "a" * 300_000})
        assert (refused.status, refused.json["error"]["param"]) == (400, "content")


async def test_a_template_is_applied_as_a_chat_would_have_it() -> None:
    async with running_server() as running:
        prompt = (await post(running.ready.http, "/apply-template", {"messages": HELLO})).json["prompt"]
        counted = await post(running.ready.http, "/v1/chat/completions", {"messages": HELLO, "max_tokens": 1})
        begun = [*HELLO, {"role": "assistant", "content": "Good"}]
        continued = (await post(running.ready.http, "/apply-template", {"messages": begun})).json["prompt"]
    assert len(TOKENIZER.encode(prompt)) == counted.json["usage"]["prompt_tokens"]
    assert continued == f"{prompt}Good"


async def test_properties_and_models_tell_what_is_served() -> None:
    suggested = Sampling(temperature=0.6, top_k=20, top_p=0.95)
    async with running_server(suggested_sampling=suggested) as running:
        http = running.ready.http
        told = (await ask(http, "/props")).json
        models = (await ask(http, "/v1/models")).json
        one = (await ask(http, "/v1/models/tiny%20qwen3moe")).json
        other = await ask(http, "/v1/models/other")
        unnamed = await ask(http, "/v1/models/")
    params = told["default_generation_settings"]["params"]
    assert (params["temperature"], params["top_k"], params["top_p"]) == (0.6, 20, 0.95)
    assert (told["total_slots"], told["model_alias"]) == (8, MODEL)
    assert "<|im_start|>" in told["chat_template"]
    assert models == unnamed.json == {"object": "list", "data": [one]}
    assert (one["id"], one["max_model_len"]) == (MODEL, 256)
    assert (other.status, other.json["error"]["code"]) == (404, "model_not_found")


async def test_a_request_is_drawn_as_the_models_makers_suggest_unless_it_says_otherwise() -> None:
    suggested = Sampling(temperature=0.6, top_k=20, top_p=0.95)
    workers = fake_workers()
    asked = {"messages": HELLO, "max_tokens": 1, "seed": -2}
    async with running_server(workers, suggested_sampling=suggested) as running:
        for given in ({}, {"temperature": 0.001, "top_k": -1, "repeat_penalty": 1.5}):
            await post(running.ready.http, "/v1/chat/completions", asked | given)
    drawn = [chunk.sampling for step in workers.steps for chunk in step.chunks if chunk.sampling is not None]
    assert drawn == [
        Sampling(temperature=0.6, top_k=20, top_p=0.95, seed=2**64 - 2),
        Sampling(temperature=0.01, top_k=0, top_p=0.95, repetition_penalty=1.5, seed=2**64 - 2),
    ]


async def test_slots_tell_who_is_at_work() -> None:
    gate = Gate(number=1)
    async with running_server(small_workers(before_collect=gate)) as running:
        http = running.ready.http
        [free] = (await ask(http, "/slots?fail_on_no_slot=1")).json
        asking = {"prompt": "ab", "max_tokens": 5, "ignore_eos": True}
        answers = [asyncio.create_task(post(http, "/v1/completions", asking)) for _ in range(2)]
        await gate.reached.wait()
        await until(lambda: running.busy()[1] == 1)
        [slot] = (await ask(http, "/slots")).json
        full = await ask(http, "/slots?fail_on_no_slot=1")
        gate.open()
        for answer in answers:
            assert (await answer).status == 200
    assert (free["is_processing"], free["id_task"]) == (False, -1)
    assert (slot["is_processing"], slot["n_ctx"], slot["params"]["n_predict"]) == (True, 256, 5)
    assert (slot["next_token"]["n_decoded"], slot["next_token"]["n_remain"]) == (1, 4)
    assert full.status == 503
