"""What a request gets where it is silent: the person's settings, then the model's own wishes; the same for all leases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message
from zhibei.engines.echo import EchoBackend, EchoScript
from zhibei.models import ModelDefaults, ModelInfo, StoredFile, StoredModel
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.plans import Hardware
from zhibei.runtime import defaults
from zhibei.runtime.pool import Pool
from zhibei.settings import Settings

WISHES = ModelDefaults(
    "Be terse.", ("<|im_end|>",), Sampling(temperature=0.3, top_k=20), LoadOptions(ctx_size=512, chat_template="{{ 1 }}")
)
SETTINGS = Settings(engine="echo", load=LoadOptions(ctx_size=256, parallel=1), sampling=Sampling(temperature=0.9, seed=7))
USER = Message.of("user", "Hello")


def test_the_request_comes_first_then_the_settings_then_the_model() -> None:
    found = defaults.chat_request(ChatRequest((USER,), Sampling(top_k=5)), WISHES, SETTINGS.sampling)
    assert found.sampling == Sampling(temperature=0.9, top_k=5, seed=7)
    silent = defaults.chat_request(ChatRequest((USER,)), WISHES, SETTINGS.sampling)
    assert silent.sampling == Sampling(temperature=0.9, top_k=20, seed=7)
    raw = defaults.completion_request(CompletionRequest("x", Sampling(top_k=5)), WISHES, SETTINGS.sampling)
    assert raw.sampling == found.sampling
    loaded = defaults.load_options(LoadOptions(threads=2), WISHES, SETTINGS.load)
    assert loaded == LoadOptions(ctx_size=256, threads=2, parallel=1, chat_template="{{ 1 }}")
    assert defaults.load_options(LoadOptions(ctx_size=64), WISHES, SETTINGS.load).ctx_size == 64
    assert defaults.load_options(LoadOptions(), WISHES, LoadOptions(parallel=1)).ctx_size == 512


def test_without_wishes_only_the_settings_count() -> None:
    request = ChatRequest((USER,), Sampling(top_k=5), Limits(9, ("x",)))
    assert defaults.chat_request(request, None, Sampling()) == request
    assert defaults.chat_request(request, None, SETTINGS.sampling).sampling == Sampling(temperature=0.9, top_k=5, seed=7)
    assert defaults.load_options(LoadOptions(), None, SETTINGS.load) == SETTINGS.load


def test_stop_texts_are_the_models_where_the_request_has_none() -> None:
    silent = defaults.chat_request(ChatRequest((USER,), limits=Limits(5)), WISHES, Sampling())
    assert silent.limits == Limits(5, ("<|im_end|>",))
    assert defaults.chat_request(ChatRequest((USER,), limits=Limits(5, ("END",))), WISHES, Sampling()).limits.stop == ("END",)
    assert defaults.completion_request(CompletionRequest("x"), WISHES, Sampling()).limits.stop == ("<|im_end|>",)


def test_the_system_text_comes_first_where_a_chat_has_none_and_never_before_raw_text() -> None:
    assert defaults.chat_request(ChatRequest((USER,)), WISHES, Sampling()).messages == (Message.of("system", "Be terse."), USER)
    own = (Message.of("system", "Be verbose."), USER)
    assert defaults.chat_request(ChatRequest(own), WISHES, Sampling()).messages == own
    assert defaults.completion_request(CompletionRequest("x"), WISHES, Sampling()).prompt == "x"


@asynccontextmanager
async def pool(settings: Settings, wishes: ModelDefaults | None) -> AsyncIterator[tuple[Pool, EchoScript]]:
    script = EchoScript()
    info = ModelInfo("gguf", "llama", context_length=2048, embedding_length=64, feed_forward_length=64, vocabulary_size=1000)
    file = StoredFile("model", Path("/models/a.gguf"), 1 << 20)
    model = StoredModel("a:latest", (file,), info, "test", datetime.now(timezone.utc), defaults=wishes)
    machine = Hardware("test", 4, 8, 64 << 30, 48 << 30)
    made = Pool(settings, lambda name: model, lambda: machine, {"echo": EchoBackend(script)})
    try:
        yield made, script
    finally:
        await made.close()


async def test_every_lease_fills_in_what_requests_leave_open() -> None:
    async with pool(SETTINGS, WISHES) as (made, script), made.lease("a") as engine:
        assert engine.spec.ctx_size == 256
        assert engine.spec.chat_template == "{{ 1 }}"
        [event async for event in engine.chat(ChatRequest((USER,)))]
        [event async for event in engine.complete(CompletionRequest("x", Sampling(temperature=0.0)))]
        chat, raw = script.requests
        assert isinstance(chat, ChatRequest) and isinstance(raw, CompletionRequest)
        assert chat.messages[0].text == "Be terse."
        assert chat.sampling == Sampling(temperature=0.9, top_k=20, seed=7)
        assert raw.sampling == Sampling(temperature=0.0, top_k=20, seed=7)
        assert raw.limits.stop == chat.limits.stop == ("<|im_end|>",)


async def test_all_else_is_the_engines_own() -> None:
    async with pool(SETTINGS, WISHES) as (made, _), pool(replace(SETTINGS, sampling=Sampling()), None) as (plain, _):
        async with made.lease("a") as filling, plain.lease("a") as bare:
            assert (filling.num_slots, filling.abilities) == (bare.num_slots, bare.abilities)
            assert filling.status().state == bare.status().state
            tokens = await filling.tokenize("Hello there", add_special=True)
            assert tokens == await bare.tokenize("Hello there", add_special=True)
            assert await filling.detokenize(tokens) == await bare.detokenize(tokens)
            assert "Be terse." in await filling.render(ChatRequest((USER,)))
            assert "Be terse." not in await bare.render(ChatRequest((USER,)))
        async with made.lease("a", "embed") as filling, plain.lease("a", "embed") as bare:
            request = EmbeddingRequest(("Hello",))
            assert await filling.embed(request) == await bare.embed(request)


async def test_loads_that_come_to_the_same_share_an_engine() -> None:
    async with pool(SETTINGS, WISHES) as (made, _):
        async with made.lease("a"):
            pass
        assert made.is_loaded("a")
        assert made.is_loaded("a", load=LoadOptions(ctx_size=256))
        assert not made.is_loaded("a", load=LoadOptions(ctx_size=512))
        async with made.lease("a", load=LoadOptions(ctx_size=256, parallel=1)):
            assert len(made.residents()) == 1


async def test_with_nothing_to_fill_in_the_engine_is_handed_out_itself() -> None:
    async with pool(replace(SETTINGS, sampling=Sampling()), None) as (made, _):
        async with made.lease("a") as first:
            pass
        async with made.lease("a") as second:
            assert first is second
