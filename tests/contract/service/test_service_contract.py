"""Each verb of ``zhibei.service.Service``, done in this process and by a running server: the same answers, the same errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support.models import model_bytes
from support.serving import serving, stored_model
from zhibei.app import build
from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message, Tool, ToolChoice
from zhibei.engines.echo import EchoBackend, EchoScript, Fail, Step
from zhibei.errors import (
    BadReference,
    BadRequest,
    ContextTooLong,
    EngineDied,
    EngineStartFailed,
    ModelFileError,
    ModelNotFound,
    Unsupported,
    ZhibeiError,
)
from zhibei.events import Finished, Inspected, Loading, Progress, Pulled, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from zhibei.local import LocalService
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.remote import RemoteService
from zhibei.service import RunOptions, Service
from zhibei.settings import Settings

MODEL = "tiny:latest"


@dataclass
class Here:
    """A service under test, and the script of the engine behind it."""

    service: Service
    script: EchoScript
    home: Path

    def answers(self, *steps: Step) -> None:
        self.script.answers.append(steps)


@pytest.fixture(params=["local", "remote"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Here]:
    home, script = tmp_path / "home", EchoScript()
    stored_model(home)
    with ExitStack() as stack:
        service: Service
        if request.param == "remote":
            service = RemoteService(stack.enter_context(serving(home, script=script)).url)
        else:
            settings = replace(Settings(), home=home, engine="echo")
            service = LocalService(build(settings, backends={"echo": EchoBackend(script)}))
        yield Here(service, script, home)


@pytest.fixture
async def service(here: Here) -> AsyncIterator[Service]:
    yield here.service
    await here.service.close()


def ask(text: str = "good morning to you", **changes: object) -> ChatRequest:
    return replace(ChatRequest((Message.of("user", text),)), **changes)  # type: ignore[arg-type]


async def events_of(service: Service, request: ChatRequest, options: RunOptions = RunOptions()) -> list[object]:
    return [event async for event in service.chat(MODEL, request, options) if not isinstance(event, Loading)]


async def test_version(service: Service) -> None:
    assert await service.version() == "0.1.0"


async def test_list_and_show_say_the_same(service: Service) -> None:
    (listed,) = await service.list_models()
    assert listed == await service.show_model(MODEL)
    assert listed.name == MODEL and listed.info is not None and listed.info.format == "gguf"
    assert listed.files[0].digest is not None and listed.files[0].digest.startswith("sha256:")


async def test_an_unknown_model_is_not_found(service: Service) -> None:
    for work in (service.show_model("nothing:here"), service.remove_model("nothing:here"), service.stop_model("nothing:here")):
        with pytest.raises(ModelNotFound) as caught:
            await work
        assert "nothing:here" in str(caught.value)
    with pytest.raises(ModelNotFound):
        async for _ in service.chat("nothing:here", ask()):
            pass


async def test_a_bad_name_is_a_bad_reference(service: Service) -> None:
    with pytest.raises(BadReference) as caught:
        await service.copy_model(MODEL, "../escape")
    assert caught.value.hint_text


async def test_copy_and_remove(service: Service) -> None:
    await service.copy_model(MODEL, "other:v2")
    assert [model.name for model in await service.list_models()] == ["other:v2", MODEL]
    await service.remove_model(MODEL)
    (left,) = await service.list_models()
    assert left.name == "other:v2" and left.model_path.is_file()


async def test_pull_reports_and_ends_with_the_model(service: Service, tmp_path: Path) -> None:
    source = tmp_path / "mine.gguf"
    source.write_bytes(model_bytes(5))
    events = [event async for event in service.pull(f"file:{source}", name="mine", copy=True)]
    assert isinstance(events[-1], Pulled) and events[-1].model.name == "mine:latest"
    assert any(isinstance(event, Inspected) and event.info is not None for event in events)
    assert any(isinstance(event, Progress) and event.done == event.total for event in events)
    assert (await service.show_model("mine")).name == "mine:latest"


async def test_pull_of_what_is_no_model_fails_and_leaves_nothing(service: Service, tmp_path: Path) -> None:
    source = tmp_path / "fake.gguf"
    source.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelFileError):
        async for _ in service.pull(f"file:{source}", name="fake", copy=True):
            pass
    assert [model.name for model in await service.list_models()] == [MODEL]


async def test_chat_streams_and_ends_with_usage(service: Service) -> None:
    events = await events_of(service, ask())
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "good morning to you"
    last = events[-1]
    assert isinstance(last, Finished) and last.reasons == ("stop",)
    assert last.usage == Usage(4, 4) and last.timings is not None and last.timings.num_generated_tokens == 4


async def test_what_is_asked_arrives_at_the_engine(here: Here, service: Service) -> None:
    request = ask(
        sampling=Sampling(temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=3, repeat_penalty=1.1, logit_bias=((5, -1.5),)),
        limits=Limits(2, ("never",)),
        tools=(Tool("clock", "tells the time", {"type": "object", "properties": {}}),),
        tool_choice=ToolChoice("auto"),
        num_choices=1,
        top_logprobs=1,
        reasoning_effort="low",
    )
    await events_of(service, request)
    assert here.script.requests == [request]


async def test_everything_an_engine_says_arrives(here: Here, service: Service) -> None:
    said: tuple[Step, ...] = (
        ReasoningDelta("hmm "),
        ReasoningDelta("yes"),
        TextDelta("It is "),
        TextDelta("noon."),
        ToolCallDelta(0, "", "call_1", "clock"),
        ToolCallDelta(0, '{"city": '),
        ToolCallDelta(0, '"Oslo"}'),
        Finished(("tool_calls",), Usage(10, 5, 4)),
    )
    here.answers(*said)
    assert await events_of(service, ask()) == list(said)


async def test_completion_embedding_and_tokens(service: Service) -> None:
    request = CompletionRequest("once upon a time", limits=Limits(3))
    events = [event async for event in service.complete(MODEL, request) if not isinstance(event, Loading)]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "once upon a "
    assert isinstance(events[-1], Finished) and events[-1].reasons == ("length",)
    embeddings = await service.embed(MODEL, EmbeddingRequest(("a", "b", "a")))
    assert len(embeddings.vectors) == 3 and embeddings.vectors[0] == pytest.approx(embeddings.vectors[2])
    tokens = await service.tokenize(MODEL, "héllo")
    assert await service.detokenize(MODEL, tokens) == "héllo"


async def test_residents_come_and_go(service: Service) -> None:
    assert list(await service.residents()) == []
    await events_of(service, ask(), RunOptions(LoadOptions(ctx_size=1024), "forever"))
    (resident,) = await service.residents()
    assert resident.name == MODEL and resident.ctx_size == 1024 and resident.expires_at is None and resident.state == "ready"
    await service.stop_model(MODEL)
    assert list(await service.residents()) == []


async def test_a_model_removed_while_it_runs_can_still_be_stopped(service: Service) -> None:
    await events_of(service, ask())
    await service.remove_model(MODEL)
    await service.stop_model(MODEL)
    assert list(await service.residents()) == []


async def test_keep_alive_of_a_request_is_kept(service: Service) -> None:
    await events_of(service, ask(), RunOptions(keep_alive="1h"))
    (resident,) = await service.residents()
    assert resident.expires_at is not None
    with pytest.raises(BadRequest):
        await events_of(service, ask(), RunOptions(keep_alive="soon"))


@pytest.mark.parametrize(
    "error",
    [
        ContextTooLong(9000, 4096),
        BadRequest("A thing {what} is wrong.", hint="Mend {what}.", what="here"),
        EngineStartFailed("It did not come up.", log_tail=("first", "last")),
    ],
)
async def test_an_engines_error_is_the_same_error(here: Here, service: Service, error: ZhibeiError) -> None:
    here.answers(Fail(error))
    with pytest.raises(type(error)) as caught:
        await events_of(service, ask())
    assert str(caught.value) == str(error) and caught.value.hint_text == error.hint_text
    assert getattr(caught.value, "log_tail", ()) == getattr(error, "log_tail", ())


async def test_an_engine_that_dies_midway_is_an_error_not_an_end(here: Here, service: Service) -> None:
    here.answers(TextDelta("It was a dark"), Fail(EngineDied("It stopped: {how}.", how="signal 9")))
    seen = []
    with pytest.raises(EngineDied) as caught:
        async for event in service.chat(MODEL, ask()):
            seen.append(event)
    assert "signal 9" in str(caught.value)
    assert TextDelta("It was a dark") in seen and not any(isinstance(event, Finished) for event in seen)
    assert isinstance((await events_of(service, ask()))[-1], Finished)


async def test_closing_a_stream_frees_the_engine(here: Here, service: Service) -> None:
    async with aclosing(service.chat(MODEL, ask("word " * 5000))) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    assert isinstance((await events_of(service, ask()))[-1], Finished)


async def test_demands_that_cannot_be_met_are_refused(service: Service) -> None:
    with pytest.raises(Unsupported) as caught:
        await events_of(service, ask(num_choices=100))
    assert caught.value.param == "n"
