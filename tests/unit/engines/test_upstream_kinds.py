"""Servers told apart by what they answer, and asked in their own words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from support.upstreams import PROGRAMS, Fake, chunk, faking, models, piece, usage
from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message, RerankRequest, ResponseFormat, Tool, ToolChoice
from zhibei.engines.base import Engine
from zhibei.engines.upstream import signs
from zhibei.engines.upstream.backend import UpstreamBackend
from zhibei.engines.upstream.kinds import KINDS, USUAL_PORTS
from zhibei.engines.upstream.listing import Upstreams
from zhibei.engines.upstream.look import MAX_ANSWER_BYTES, Seen, Unseen, base_address, look
from zhibei.engines.upstream.signs import Answer, identify, listed
from zhibei.errors import EngineRefused, Unsupported
from zhibei.events import Finished, TextDelta
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.planner.upstream import plan_upstream
from zhibei.plans import Task
from zhibei.refs import ModelRef
from zhibei.settings import UpstreamSettings

COUNTING = [name for name in PROGRAMS if KINDS[name].tokenizer is not None]
EVERYTHING = Sampling(
    temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, typical_p=0.9, repeat_penalty=1.1, repeat_last_n=64, presence_penalty=0.1,
    frequency_penalty=0.2, seed=7, mirostat=2, mirostat_tau=5.0, mirostat_eta=0.1, dry_multiplier=0.8, dry_base=1.75,
    dry_allowed_length=2, xtc_probability=0.5, xtc_threshold=0.1, logit_bias=((5, -1.0),),
)  # fmt: skip


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fake(program: str) -> Iterator[Fake]:
    with faking(PROGRAMS[program]) as running:
        yield running


async def start(fake: Fake, task: Task = "generate", key: str | None = None) -> Engine:
    others = Upstreams({"there": UpstreamSettings(fake.url, key)}, "")
    (model, *_) = await others.models()
    made = plan_upstream(others.resolve(ModelRef.parse(model.name)), task, LoadOptions(), LoadOptions())
    assert made.spec is not None
    return await UpstreamBackend(others).start(made.spec, lambda line: None)


async def run(engine: Engine, request: ChatRequest | CompletionRequest) -> tuple[str, Finished]:
    events = engine.chat(request) if isinstance(request, ChatRequest) else engine.complete(request)
    found = [event async for event in events]
    assert isinstance(found[-1], Finished)
    return "".join(event.text for event in found if isinstance(event, TextDelta)), found[-1]


def chat(**more: Any) -> ChatRequest:
    return ChatRequest((Message.of("user", "hi"),), **more)


def test_there_is_a_program_here_for_every_kind() -> None:
    assert set(PROGRAMS) | {"zhibei"} == set(KINDS)
    assert {11434, 1234, 5001, 5000, 8000, 8080, 2242, 1337} <= set(USUAL_PORTS)


def test_no_kind_renames_what_is_no_field_of_ours() -> None:
    ours = {field.name for field in fields(Sampling)} | {"ignore_eos"}
    assert all(set(kind.fields) <= ours for kind in KINDS.values())


async def test_it_is_told_apart(program: str, fake: Fake) -> None:
    seen = await look(f"{fake.url}/v1/", None)
    assert isinstance(seen, Seen) and seen.identity.kind == program and not seen.identity.wants_key
    versions = {"ollama": "0.12.6", "koboldcpp": "1.98", "vllm": "0.11.0", "aphrodite": "0.10.0", "localai": "v3.5.0"}
    assert seen.identity.version == {**versions, "llama-server": "b6700-abcdef"}.get(program)
    assert len(seen.models) == 1


@pytest.mark.parametrize(
    ("program", "length"), [("vllm", 40960), ("llama-server", 2048), ("lmstudio", 32768), ("tabby", 8192), ("ollama", None)]
)
async def test_the_context_is_what_it_says(program: str, length: int | None) -> None:
    with faking(PROGRAMS[program]) as fake:
        (model,) = await Upstreams({"there": UpstreamSettings(fake.url)}, "").models()
    assert model.info is not None and model.info.context_length == length
    assert model.name.startswith("upstream:there/") and model.size_bytes == 0


async def test_a_chat_sends_what_it_knows_under_its_names(program: str, fake: Fake) -> None:
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("hey"), chunk(reason="stop"), usage(3, 1)])
    engine = await start(fake)
    text, last = await run(engine, chat(sampling=EVERYTHING, limits=Limits(9, ("x",), ignore_eos=True)))
    await engine.close()
    assert (text, last.usage.num_prompt_tokens, last.usage.num_generated_tokens) == ("hey", 3, 1)
    (body,) = fake.bodies("/v1/chat/completions")
    known = set(KINDS[program].fields.values())
    sampled = set(body) - {"model", "messages", "stream", "stream_options", "max_tokens", "stop", "verbose"}
    assert sampled == known
    assert body["temperature"] == 0.5 and body["max_tokens"] == 9 and body["stop"] == ["x"]
    if "repeat_penalty" in KINDS[program].fields:
        assert body[KINDS[program].fields["repeat_penalty"]] == 1.1


@pytest.mark.parametrize("program", COUNTING)
async def test_tokens_are_counted_there(program: str, fake: Fake) -> None:
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("a"), chunk("b"), chunk("c"), chunk(reason="stop")])
    engine = await start(fake)
    assert await engine.tokenize("hi there") == (5, 6)
    assert await engine.detokenize((5, 6)) == "hi there"
    # It gave no usage: counted with its own tokenizer, which says two to everything here.
    _, last = await run(engine, chat())
    assert (last.usage.num_prompt_tokens, last.usage.num_generated_tokens) == (2, 2)
    await engine.close()


@pytest.mark.parametrize("program", sorted(set(PROGRAMS) - set(COUNTING)))
async def test_who_counts_no_tokens_says_so(program: str, fake: Fake) -> None:
    engine = await start(fake)
    for call in (engine.tokenize("hi"), engine.detokenize((5,))):
        with pytest.raises(Unsupported):
            await call
    await engine.close()


async def test_token_ids_as_a_prompt(program: str, fake: Fake) -> None:
    kind = KINDS[program]
    fake.replies["POST /v1/completions"] = (200, [piece("hey", "stop")])
    engine = await start(fake)
    if not kind.takes_tokens and kind.tokenizer is None:
        with pytest.raises(Unsupported, match="takes text"):
            await run(engine, CompletionRequest((5, 6)))
    else:
        assert (await run(engine, CompletionRequest((5, 6))))[0] == "hey"
        assert fake.bodies("/v1/completions")[0]["prompt"] == ([5, 6] if kind.takes_tokens else "hi there")
    await engine.close()


async def test_what_it_would_pass_over_in_silence_is_refused(program: str, fake: Fake) -> None:
    kind, engine = KINDS[program], await start(fake)
    tools = (Tool("f"),)
    demands: dict[str, tuple[bool, ChatRequest | CompletionRequest]] = {
        "n": (kind.many_choices, chat(num_choices=2)),
        "response_format": (kind.holds_formats, chat(response_format=ResponseFormat("json_object"))),
        "logprobs": (kind.gives_logprobs, chat(top_logprobs=1)),
        "suffix": (kind.fills_gaps and program != "ollama", CompletionRequest("a", suffix="b")),
        "tool_choice": (
            kind.chooses_tools or "tools" not in engine.abilities,
            chat(tools=tools, tool_choice=ToolChoice("required")),
        ),
    }
    for param, (is_heeded, request) in demands.items():
        if not is_heeded:
            with pytest.raises(Unsupported) as caught:
                await run(engine, request)
            assert caught.value.param == param
    assert not fake.bodies("/v1/chat/completions") and not fake.bodies("/v1/completions")
    await engine.close()


@pytest.mark.parametrize(
    ("program", "lacking"), [("ollama", {"vision", "reasoning", "infill"}), ("llama-server", {"tools", "vision"})]
)
async def test_what_the_model_lacks_is_taken_from_what_it_says(program: str, lacking: set[str], fake: Fake) -> None:
    engine = await start(fake)
    assert not lacking & engine.abilities and {"chat", "complete"} <= engine.abilities
    await engine.close()


async def test_embeddings_and_ranks(program: str, fake: Fake) -> None:
    fake.replies["POST /v1/embeddings"] = (200, {"data": [{"index": 0, "embedding": [0.5, 0.5]}], "usage": {"prompt_tokens": 2}})
    fake.replies["POST /v1/rerank"] = (200, {"results": [{"index": 0, "relevance_score": 0.25}], "usage": {"total_tokens": 2}})
    engine = await start(fake, "embed")
    assert (await engine.embed(EmbeddingRequest(("hi",)))).vectors == ((0.5, 0.5),)
    await engine.close()
    engine = await start(fake, "rerank")
    if KINDS[program].reranks:
        assert (await engine.rerank(RerankRequest("q", ("d",)))).scores == (0.25,)
    else:
        with pytest.raises(Unsupported):
            await engine.rerank(RerankRequest("q", ("d",)))
    await engine.close()


@pytest.mark.parametrize("program", COUNTING)
@pytest.mark.parametrize("nonsense", [{}, {"tokens": "x", "ids": 7}, {"tokens": ["x"], "ids": [None]}])
async def test_tokens_that_are_none(program: str, fake: Fake, nonsense: object) -> None:
    way = KINDS[program].tokenizer
    assert way is not None
    fake.replies[f"POST {way.encode_path}"] = (200, nonsense)
    engine = await start(fake)
    with pytest.raises(EngineRefused, match="there at http"):
        await engine.tokenize("hi")
    await engine.close()


async def test_tabby_is_known_without_its_key_and_asks_for_it() -> None:
    locked = {"GET /v1/models": (401, {"detail": "no"}), "GET /openapi.json": (200, {"info": {"title": "TabbyAPI"}})}
    with faking(locked) as fake:
        seen = await look(fake.url, None)
        (state,) = await Upstreams({"there": UpstreamSettings(fake.url)}, "").states()
    assert isinstance(seen, Seen) and (seen.identity.kind, seen.identity.wants_key, seen.models) == ("tabby", True, ())
    assert state.problem is not None and "wants another key" in str(state.problem)


async def test_what_speaks_another_language_is_not_a_server_for_us() -> None:
    with faking({"GET /": (200, {"hello": "world"})}) as fake:
        assert await look(fake.url, None) == Unseen(is_silent=False)
        (state,) = await Upstreams({"there": UpstreamSettings(fake.url)}, "").states()
    assert "does not speak OpenAI's API" in str(state.problem)


async def test_what_never_answers_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert await look(url, None, timeout_s=0.05) == Unseen(is_silent=True)
    server.close()
    await server.wait_closed()


async def test_a_list_without_end_is_not_read() -> None:
    with faking({"GET /v1/models": models("x" * (MAX_ANSWER_BYTES + 1))}) as fake:
        assert await look(fake.url, None, timeout_s=20.0) == Unseen(is_silent=False)


async def test_many_who_ask_at_once_ask_once() -> None:
    with faking(PROGRAMS["openai"]) as fake:
        others = Upstreams({"there": UpstreamSettings(fake.url)}, "")
        lists = await asyncio.gather(*(others.models() for _ in range(5)))
        assert [len(found) for found in lists] == [1] * 5
        assert len([each for each in fake.heard if each.path == "/v1/models"]) == 1
        await others.close()


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        7,
        {"data": 7},
        {"data": [7, None, {}]},
        {"data": [{"id": 7}, {"id": ""}, {"id": "a b"}, {"id": "x" * 600}, {"id": "a\n"}]},
    ],
)
def test_lists_that_are_none_are_empty(body: object) -> None:
    assert listed(Answer(200, body)) == ()
    assert identify({signs.MODELS_PATH: Answer(500, body)}) is None


@pytest.mark.parametrize("value", ["x", -1, 0, True, 1 << 40, 1.5, None, [], {}])
def test_facts_that_are_none_are_not_known(value: object) -> None:
    item = {"id": "m", "max_model_len": value, "created": value, "meta": value, "quantization": value if value != "x" else None}
    assert listed(Answer(200, {"data": [item]})) == (signs.Listed("m"),)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_address_with_and_without_v1(url: str) -> None:
    assert base_address(url) == "http://h:1"


def test_what_the_settings_say_for_all_models_is_not_meant_for_theirs() -> None:
    model = Upstreams({"there": UpstreamSettings("http://h:1")}, "").resolve(ModelRef.parse("upstream:there/A/b:C"))
    usual = LoadOptions(ctx_size=4096, threads=2)
    found = plan_upstream(model, "generate", usual, usual)
    assert found.spec is not None and found.verdict == "runs" and found.needed_bytes == 0
    assert (found.spec.model_path, found.spec.engine) == ("upstream:there/A/b:C", "upstream")
    refused = plan_upstream(model, "generate", LoadOptions(ctx_size=8192, threads=2), usual)
    assert refused.spec is None and refused.reasons[0][1]["options"] == "ctx_size"
