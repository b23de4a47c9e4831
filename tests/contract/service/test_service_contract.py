"""Each verb of ``zhibei.service.Service``, done in this process and by a running server: the same answers, the same errors."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    ModelBroken,
    ModelFileError,
    ModelNotFound,
    Unsupported,
    ZhibeiError,
)
from zhibei.events import Checked, Finished, Inspected, Loading, Progress, Pulled, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from zhibei.judging.asking import FitQuestion
from zhibei.local import LocalService
from zhibei.models import Leftover
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.planner.recommend import Wish
from zhibei.remote import RemoteService
from zhibei.service import RunOptions, Service
from zhibei.settings import Settings
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.journal import PartIdentity
from zhibei.store.parts import claim_part

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


def blob_of(home: Path) -> Path:
    """The one blob of the model that every store here has."""
    (found,) = (path for path in (home / "blobs" / "sha256").rglob("*") if path.is_file() and path.suffix != ".chunks")
    return found


def leave_things_behind(home: Path) -> list[Leftover]:
    """A download that was cut off, a blob that no model uses, a view of a model that is gone."""
    part = claim_part(home / "blobs" / "parts", PartIdentity("hf:o/n@c/x.gguf", Digest("ab" * 32), 5000, None), Disk())
    part.write(0, [bytes(range(256)) * 16])
    part.keep()
    (kept,) = (home / "blobs" / "parts").iterdir()
    orphan = home / "blobs" / "sha256" / "cd" / ("cd" * 32)
    orphan.parent.mkdir()
    orphan.write_bytes(b"nobody's")
    os.utime(orphan, (1, 1))
    view = home / "views" / ("ef" * 16)
    view.mkdir(parents=True)
    return [
        Leftover("part", kept, 4096, "hf:o/n@c/x.gguf", 5000),
        Leftover("blob", orphan, len(b"nobody's")),
        Leftover("view", view, 0),
    ]


async def everything_of(work: Callable[[], AsyncGenerator[Any, None]]) -> list[Any]:
    async with aclosing(work()) as events:
        return [event async for event in events]


async def test_leftovers_are_told_and_pruned(here: Here, service: Service) -> None:
    assert list(await service.leftovers()) == list(await service.prune()) == []
    expected = leave_things_behind(here.home)
    assert list(await service.leftovers()) == expected
    assert list(await service.leftovers(partial_only=True)) == expected[:1]
    assert list(await service.prune()) == expected
    assert list(await service.leftovers()) == list(await service.prune()) == []
    assert not any(found.path.exists() for found in expected)
    assert (await service.show_model(MODEL)).problem is None


async def test_verify_finds_what_is_wrong_and_only_that(here: Here, service: Service, tmp_path: Path) -> None:
    blob = blob_of(here.home)
    other = tmp_path / "other.gguf"
    other.write_bytes(model_bytes(7, seed=3))
    await everything_of(lambda: service.pull(str(other), name="other", copy=True))
    checked = [event for event in await everything_of(service.verify) if isinstance(event, Checked)]
    assert checked == [Checked("other:latest", None), Checked(MODEL, None)]
    blob.write_bytes(b"?" * blob.stat().st_size)
    events = await everything_of(service.verify)
    found = {event.name: event for event in events if isinstance(event, Checked)}
    assert found["other:latest"] == Checked("other:latest", None)
    assert found[MODEL].bad_files == ("tiny.gguf",) and "tiny.gguf" in (found[MODEL].problem or "")
    assert Progress("tiny.gguf", blob.stat().st_size, blob.stat().st_size) in events
    *_, alone = await everything_of(lambda: service.verify(["other"]))
    assert alone == Checked("other:latest", None)


async def test_an_empty_store_is_verified_at_once(service: Service) -> None:
    await service.remove_model(MODEL)
    assert await everything_of(service.verify) == []


async def test_repair_mends_what_is_wrong(here: Here, service: Service) -> None:
    blob = blob_of(here.home)
    content = blob.read_bytes()
    blob.write_bytes(content[:100] + b"?" * 10 + content[110:])
    events = await everything_of(lambda: service.repair("tiny"))
    checked = next(event for event in events if isinstance(event, Checked))
    assert checked.bad_files == ("tiny.gguf",)
    assert isinstance(events[-1], Pulled)
    model = events[-1].model
    assert (model.name, model.problem, model.in_place) == (MODEL, None, False)
    assert model.model_path.read_bytes() == content
    assert await everything_of(lambda: service.verify([MODEL])) == [
        Progress("tiny.gguf", len(content), len(content)),
        Checked(MODEL, None),
    ]


async def test_update_takes_the_newer_version(here: Here, service: Service) -> None:
    before = await service.show_model(MODEL)
    source = here.home.parent / "tiny.gguf"
    same = (await everything_of(lambda: service.update(MODEL)))[-1]
    assert isinstance(same, Pulled) and same.model.files == before.files
    source.write_bytes(model_bytes(9, seed=2))
    events = await everything_of(lambda: service.update("tiny"))
    assert isinstance(events[0], Inspected) and isinstance(events[-1], Pulled)
    model = events[-1].model
    assert (model.name, model.source, model.in_place) == (MODEL, f"file:{source}", False)
    assert model.model_path.read_bytes() == source.read_bytes()
    assert blob_of(here.home) == model.model_path
    source.unlink()
    with pytest.raises(ModelNotFound):
        await everything_of(lambda: service.update(MODEL))
    assert (await service.show_model(MODEL)).files == model.files


async def test_a_file_in_place_stays_in_place(service: Service, tmp_path: Path) -> None:
    source = tmp_path / "lying.gguf"
    source.write_bytes(model_bytes(5))
    await everything_of(lambda: service.pull(str(source), name="lying"))
    source.write_bytes(model_bytes(6, seed=4))
    (checked,) = await everything_of(lambda: service.verify(["lying"]))
    assert f"{source} has" in checked.problem and checked.bad_files == ()
    for work in (service.update, service.repair):
        last = (await everything_of(lambda work=work: work("lying")))[-1]  # type: ignore[misc]
        assert isinstance(last, Pulled)
        assert (last.model.in_place, last.model.model_path, last.model.problem) == (True, source, None)


async def test_upkeep_of_what_is_not_here(service: Service) -> None:
    for work in (
        lambda: service.verify([MODEL, "nothing:here"]),
        lambda: service.repair("nothing:here"),
        lambda: service.update("nothing:here"),
    ):
        with pytest.raises(ModelNotFound) as caught:
            await everything_of(work)
        assert "nothing:here" in str(caught.value) and caught.value.hint_text
    for work in (lambda: service.verify(["../x"]), lambda: service.repair("../x"), lambda: service.update("../x")):
        with pytest.raises(BadReference):
            await everything_of(work)


async def test_upkeep_of_a_model_of_which_nothing_is_known(here: Here, service: Service) -> None:
    (manifest,) = (here.home / "manifests").rglob("*.json")
    manifest.write_text("{")
    (checked,) = await everything_of(service.verify)
    assert checked.name == MODEL and "damaged" in checked.problem
    for work in (service.repair, service.update):
        with pytest.raises(ModelBroken) as caught:
            await everything_of(lambda work=work: work("tiny"))  # type: ignore[misc]
        assert "zhibei rm tiny:latest" in (caught.value.hint_text or "")


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
        ContextTooLong(9000, 100),
        ContextTooLong(9000, 4096, is_models_limit=True),
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


async def test_the_pool_is_told(service: Service) -> None:
    assert (await service.pool()).residents == ()
    await events_of(service, ask(), RunOptions(keep_alive="1h"))
    state = await service.pool()
    assert [resident.name for resident in state.residents] == [MODEL] and state.num_waiting == 0
    assert state.total_bytes is not None and state.available_bytes is not None


async def test_an_engines_lines_of_a_model(service: Service) -> None:
    assert [line async for line in service.logs(MODEL)] == []
    with pytest.raises(ModelNotFound):
        async for _ in service.logs("nothing:here"):
            pass


async def test_the_machine_is_told(service: Service) -> None:
    machine = await service.machine()
    assert machine.hardware.total_bytes and machine.hardware.num_logical_cores
    assert [engine.name for engine in machine.engines] == ["llama.cpp"]


async def test_fit_judges_a_model_of_the_store(service: Service) -> None:
    judged = await service.fit(FitQuestion("tiny", LoadOptions(ctx_size=64)))
    (found,) = judged.appraisal.models
    assert found.is_here and found.model == await service.show_model(MODEL)
    assert judged.table is None and judged.plan is not None and judged.plan.spec is not None
    assert judged.plan.ctx_size == 64 and judged.plan.memory
    imagined = await service.fit(FitQuestion("tiny", hardware="rtx4090,ram=64g"))
    assert imagined.plan is not None and [use.device for use in imagined.plan.devices] == ["cpu", "gpu0"]
    with pytest.raises(BadRequest):
        await service.fit(FitQuestion("tiny", hardware="a machine"))
    with pytest.raises(ModelNotFound):
        await service.fit(FitQuestion("file:/nowhere/at/all.gguf"))


async def test_recommend_knows_the_catalogue(service: Service) -> None:
    found = await service.recommend(Wish("code", min_tokens_per_s=0.0), limit=3)
    assert len(found) == 3 and len({item.offer.name for item in found}) >= 2
    assert all(item.plan.is_runnable and item.reasons and item.offer.model.files for item in found)
    assert all(message.format_map(values) for item in found for message, values in item.reasons)
