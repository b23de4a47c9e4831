"""The pool with many models and many who ask: names, pins, preloading, turns, deadlines, crashes, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from support.house import INFO, MIB, TIMEOUT_S, Client, House, client
from zhibei.chat import ChatRequest, EmbeddingRequest, Message
from zhibei.engines.base import Engine, EngineStatus, LogSink
from zhibei.engines.echo import EchoBackend, EchoEngine, EchoScript, Fail, Wait
from zhibei.errors import (
    BadRequest,
    BadSetting,
    Busy,
    ContextTooLong,
    DoesNotFit,
    EngineDied,
    EngineStartFailed,
    ModelNotFound,
    ModelUnstable,
    ShareFull,
)
from zhibei.events import Finished, Usage
from zhibei.models import ModelDefaults
from zhibei.options import LoadOptions, Sampling
from zhibei.plans import EngineInfo, EngineSpec, Hardware, Plan
from zhibei.runtime import pool as pool_module
from zhibei.runtime.happenings import (
    EngineCrashed,
    Happening,
    LoadBegan,
    LoadFailed,
    ModelLoaded,
    ModelUnloaded,
    QueueLength,
    Refused,
)
from zhibei.settings import ModelSettings, ServerSettings

SMALL = LoadOptions(ctx_size=512, parallel=1)
CHAT = ChatRequest((Message.of("user", "one two"),))


class Clock:
    """The pool's clock, which stands still unless it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pool_module, "time", made)
    return made


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    yield made
    await made.pool.close()


def with_models(**models: ModelSettings) -> House:
    return House(models=models)


def room_for_one(**settings: Any) -> House:
    """Two models of which one fits at a time."""
    made = House(load=SMALL, **settings)
    made.machine = Hardware("test", 1, 1, 400 * MIB, 400 * MIB)
    made.models = {name: made.make(name, 200 * MIB) for name in "ab"}
    return made


async def say(house: House, model: str = "a", **how: Any) -> list[object]:
    async with house.pool.lease(model, **how) as engine:
        return [event async for event in engine.chat(CHAT)]


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# Names


@pytest.mark.parametrize("name", ["no-such", "NO-such:latest", "Not A Name!", "no:t"])
async def test_an_alias_stands_for_its_model(name: str) -> None:
    house = with_models(a=ModelSettings(aliases=("no-such", "Not a name!", "no:t")))
    resolve = house.resolve

    def strict(text: str) -> Any:
        if "!" in text:
            raise BadRequest("{text} is no name.", text=text)
        return resolve(text.lower().removesuffix(":latest"))

    house.pool._names._resolve = strict
    async with house.pool.lease(name) as engine, house.pool.lease("b"):
        assert engine.spec.model_name == "a:latest"
        assert house.pool.is_loaded(name) and house.pool.find(name).name == "a:latest"
    await house.pool.stop(name)
    assert house.states() == {"b": "ready"}
    with pytest.raises(ModelNotFound, match="not-even"):
        await say(house, "not-even")
    await house.pool.close()


async def test_a_model_of_that_name_wins_over_an_alias() -> None:
    house = with_models(a=ModelSettings(aliases=("b",)))
    async with house.pool.lease("b") as engine:
        assert engine.spec.model_name == "b:latest"
    await house.pool.close()


def test_an_alias_of_two_models_is_said_before_anything_runs() -> None:
    with pytest.raises(BadSetting, match="x"):
        with_models(a=ModelSettings(aliases=("x",)), b=ModelSettings(aliases=("x",)))


async def test_a_models_own_settings_are_between_the_request_and_those_for_all() -> None:
    own = ModelSettings(
        keep_alive="1h",
        system="Be brief.",
        load=LoadOptions(ctx_size=1024, threads=3),
        sampling=Sampling(temperature=0.1, top_k=5),
    )
    house = House(
        models={"A": own}, load=LoadOptions(threads=2, parallel=1), sampling=Sampling(top_k=9, top_p=0.5), keep_alive="1m"
    )
    wanted = ModelDefaults(
        system="Packed.", stop=("END",), sampling=Sampling(min_p=0.1), load=LoadOptions(ctx_size=64, batch_size=32)
    )
    house.models["a"] = replace(house.make("a"), defaults=wanted)
    async with house.pool.lease("a", load=LoadOptions(ctx_size=512)) as engine:
        assert (engine.spec.ctx_size, engine.spec.threads, engine.spec.batch_size) == (512, 3, 32)
        async for _ in engine.chat(replace(CHAT, sampling=Sampling(temperature=0.7))):
            pass
    async with house.pool.lease("a") as engine:
        assert engine.spec.ctx_size == 1024
    request = house.script.requests[0]
    assert isinstance(request, ChatRequest)
    assert request.sampling == Sampling(temperature=0.7, top_k=5, top_p=0.5, min_p=0.1)
    assert [message.text for message in request.messages] == ["Be brief.", "one two"] and request.limits.stop == ("END",)
    expires = [shown.expires_at for shown in house.pool.residents()]
    await say(house, "b")
    other = house.script.requests[-1]
    assert isinstance(other, ChatRequest) and [message.role for message in other.messages] == ["user"]
    assert other.sampling == Sampling(top_k=9, top_p=0.5)
    last = house.pool.residents()[-1].expires_at
    assert last is not None and all(each is not None and (each - last).total_seconds() > 3000 for each in expires)
    await house.pool.close()


# Pinning and preloading


async def test_a_pinned_model_stays_whatever_a_request_says_and_goes_by_hand() -> None:
    house = room_for_one(models={"a": ModelSettings(pin=True, aliases=("x",))})
    async with house.loaded("a", keep_alive="0"):
        (shown,) = house.pool.residents()
        assert (shown.pinned, shown.aliases, shown.expires_at, shown.state) == (True, ("x",), None, "ready")
        assert isinstance(await client(house, "b").fails(), DoesNotFit)
        await house.pool.stop("a:latest")
    async with house.loaded("b"):
        assert house.states() == {"b": "ready"}
    await house.pool.close()


async def test_preloading(caplog: pytest.LogCaptureFixture) -> None:
    models = {
        "nothing": ModelSettings(preload=True),
        "a": ModelSettings(preload=True, load=LoadOptions(ctx_size=512)),
        "vectors": ModelSettings(preload=True, pin=True),
        "c": ModelSettings(pin=True),
    }
    house = House(models=models)
    base = house.make("vectors")
    assert base.info is not None
    house.models["vectors"] = replace(base, info=replace(base.info, pooling="mean"))
    await house.pool.preload()
    assert {shown.name: (shown.task, shown.ctx_size, shown.num_leases) for shown in house.pool.residents()} == {
        "a:latest": ("generate", 512, 0),
        "vectors:latest": ("embed", 2048, 0),
    }
    assert "nothing could not be preloaded: Model nothing is not on this machine." in caplog.text
    await house.pool.close()


async def test_preloading_can_be_cut_off() -> None:
    house = with_models(a=ModelSettings(preload=True))
    house.script.load = asyncio.Event()
    preloading = asyncio.ensure_future(house.pool.preload())
    await house.until_waiting(1)
    preloading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preloading
    await house.pool.close()
    assert house.pool.residents() == () and house.script.started == []


# Turns, shares and deadlines


async def test_the_second_owner_waits_for_one_generation_at_most(house: House) -> None:
    order: list[str] = []

    async def ask(owner: str) -> None:
        async with house.pool.lease("a", owner=owner):
            order.append(owner)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(ask("flood")) for _ in range(80)]
    await house.until(lambda: len(order) > 10)
    before = len(order)
    tasks.append(asyncio.ensure_future(ask("other")))
    await asyncio.gather(*tasks)
    assert order.index("other") - before <= 2
    assert len(order) == 81


async def test_one_owner_cannot_fill_the_queue() -> None:
    house = House(server=ServerSettings(max_queue=8))
    flood = [client(house, owner="flood") for _ in range(20)]
    await settled()
    other = client(house, owner="other")
    await settled()
    refused = [one for one in flood if one.task.done()]
    assert len(refused) == 14 and not other.task.done()
    for one in refused:
        error = await one.fails()
        assert isinstance(error, ShareFull) and error.retry_after_s == 1
    await flood[0].is_served()
    await flood[0].leave()
    await other.is_served()
    for one in (*flood, other):
        one.task.cancel()
    await asyncio.gather(*(one.task for one in (*flood, other)), return_exceptions=True)
    await house.pool.close()


async def test_nobody_in_particular_has_the_whole_queue() -> None:
    house = House(server=ServerSettings(max_queue=8))
    clients = [client(house) for _ in range(10)]
    await clients[0].is_served()
    failed = [await one.fails() for one in clients[9:]]
    assert [type(error) for error in failed] == [Busy] and "(8)" in str(failed[0])
    for one in clients[:9]:
        one.task.cancel()
    await asyncio.gather(*(one.task for one in clients[:9]), return_exceptions=True)
    await house.pool.close()


async def test_who_waits_too_long_is_told_so_and_never_served(clock: Clock) -> None:
    house = House(server=ServerSettings(max_wait_s=30))
    one, two, three = client(house), client(house), client(house)
    await one.is_served()
    await house.until_waiting(2)
    clock.now_s += 31
    await one.leave()
    for late in (two, three):
        error = await late.fails()
        assert type(error) is Busy and "30 seconds" in str(error) and not late.entered.is_set()
    async with house.pool.lease("a"):
        pass
    await house.pool.close()


async def test_the_clock_alone_ends_a_wait() -> None:
    house = House(server=ServerSettings(max_wait_s=0.02))
    one, two = client(house), client(house)
    await one.is_served()
    assert "within 1 seconds" in str(await two.fails())
    await one.leave()
    await house.pool.close()


async def test_the_refused_are_told_when_to_come_back(clock: Clock) -> None:
    house = House(server=ServerSettings(max_queue=1))
    one = client(house)
    await one.is_served()
    clock.now_s += 7.5
    await one.leave()
    holding, waiting = client(house), client(house)
    await house.until_waiting(1)
    error = await client(house).fails()
    assert isinstance(error, Busy) and error.retry_after_s == 8, "a request takes seven and a half seconds"
    await waiting.cancel()
    await holding.leave()
    await house.pool.stop("a:latest")
    house.script.load = asyncio.Event()
    loading = client(house)
    await house.until_waiting(1)
    error = await client(house).fails()
    assert isinstance(error, Busy) and error.retry_after_s == 1, "the last load took no time"
    await loading.cancel()
    await house.pool.close()


async def test_two_models_in_turn_with_room_for_one() -> None:
    """Two hundred requests, and none waits for ever; no model is ever loaded twice at once."""
    house = room_for_one()
    done: list[str] = []

    async def ask(name: str) -> None:
        async with house.pool.lease(name):
            assert len(house.states()) == 1
            await asyncio.sleep(0)
            done.append(name)

    await asyncio.wait_for(asyncio.gather(*(ask("ab"[number % 2]) for number in range(120))), 60)
    tasks = [asyncio.ensure_future(ask("ab"[number % 2])) for number in range(80)]
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    assert len(done) == 200
    assert house.script.num_closed == len(house.script.started) - 1
    await house.pool.close()


async def test_a_thousand_at_once_are_served_or_refused_at_once() -> None:
    house = House(server=ServerSettings(max_queue=128), load=LoadOptions(parallel=4))
    results = await asyncio.wait_for(asyncio.gather(*(say(house) for _ in range(1000)), return_exceptions=True), 60)
    refused = [result for result in results if isinstance(result, Busy)]
    served = [result for result in results if isinstance(result, list)]
    assert len(served) + len(refused) == 1000 and len(served) >= 128
    assert (house.pool.num_waiting, house.script.num_running) == (0, 0)
    await house.pool.close()


async def test_a_load_that_is_given_up_a_hundred_times_leaves_nothing() -> None:
    house = House(keep_alive="0")
    house.script.load = asyncio.Event()
    before = asyncio.all_tasks()
    for number in range(100):
        one = client(house, load=LoadOptions(ctx_size=256 + number % 3))
        await house.until_waiting(1)
        await one.cancel()
    house.script.load.set()
    await house.until(lambda: not house.pool.residents())
    await settled()
    assert asyncio.all_tasks() == before
    assert len(house.script.started) == house.script.num_closed == 3
    assert (house.pool.num_waiting, house.pool._wanted, house.pool._timer) == (0, {}, None)
    await house.pool.close()


# Crashes


def dying(num: int) -> EchoScript:
    return EchoScript([[Fail(EngineDied("It died."))] for _ in range(num)])


async def crash(house: House, times: int = 3) -> None:
    for _ in range(times):
        with pytest.raises(EngineDied):
            await say(house)


async def test_three_crashes_in_five_minutes_and_it_is_left_alone(clock: Clock) -> None:
    house = House(backend=EchoBackend(dying(3)))
    await crash(house)
    clock.now_s += 100
    error = await client(house).fails()
    assert isinstance(error, ModelUnstable) and error.retry_after_s == 200 and "It died." in str(error)
    await house.until(lambda: not house.pool.residents())
    async with house.loaded("b"):
        assert house.states() == {"b": "ready"}, "others are not touched"
    clock.now_s += 200
    assert len(await say(house)) == 3
    await crash_free(house)
    await house.pool.close()


async def crash_free(house: House) -> None:
    for _ in range(3):
        assert await say(house)


async def test_crashes_that_are_far_apart_are_no_reason(clock: Clock) -> None:
    house = House(backend=EchoBackend(dying(6)))
    for _ in range(6):
        await crash(house, 1)
        clock.now_s += 151
    assert await say(house)
    await house.pool.close()


async def test_the_one_that_tries_again_and_dies_closes_the_door(clock: Clock) -> None:
    house = House(backend=EchoBackend(dying(4)))
    await crash(house)
    clock.now_s += 300
    await crash(house, 1)
    assert isinstance(await client(house).fails(), ModelUnstable)
    await house.pool.close()


@pytest.mark.parametrize("how", ["stop", "forgive"])
async def test_by_hand_it_may_be_tried_at_once(clock: Clock, how: str) -> None:
    house = House(backend=EchoBackend(dying(3)))
    await crash(house)
    await house.until(lambda: not house.pool.residents())
    if how == "stop":
        await house.pool.stop("a")
    else:
        assert house.pool.forgive("a:latest") and not house.pool.forgive("a:latest")
    assert await say(house)
    await house.pool.close()


async def test_one_crash_under_many_requests_is_one() -> None:
    dies = asyncio.Event()
    script = EchoScript([[Wait(dies), Fail(EngineDied("It died."))] for _ in range(4)])
    house = House(backend=EchoBackend(script), load=LoadOptions(parallel=4))
    tasks = [asyncio.ensure_future(say(house)) for _ in range(4)]
    await house.until(lambda: house.states() == {"a": "busy"})
    while script.num_running < 4:
        await asyncio.sleep(0)
    dies.set()
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [EngineDied] * 4
    assert house.pool.residents()[0].num_crashes == 1
    assert await say(house)
    await house.pool.close()


async def test_those_who_wait_for_an_engine_that_is_given_up_are_told_so() -> None:
    house = House(backend=EchoBackend(dying(3)))
    await crash(house, 2)
    waiting: list[Client] = []
    with pytest.raises(EngineDied):
        async with house.pool.lease("a") as engine:
            waiting = [client(house), client(house)]
            await house.until_waiting(2)
            async for _ in engine.chat(CHAT):
                pass
    assert [type(await one.fails()) for one in waiting] == [ModelUnstable] * 2
    await house.pool.close()


@pytest.mark.parametrize(("code", "is_unstable"), [("signal 11", True), ("unknown architecture", False)])
async def test_starts_that_crash_count_and_those_that_fail_with_words_do_not(house: House, code: str, is_unstable: bool) -> None:
    house.script.start_error = EngineStartFailed("{code}", code=code)
    for _ in range(3):
        assert await client(house).fails() is house.script.start_error
    assert isinstance(await client(house).fails(), ModelUnstable) is is_unstable


async def test_closing_under_a_request_is_no_crash() -> None:
    house = House(backend=EchoBackend(EchoScript([[Wait(asyncio.Event()), Fail(EngineDied("x"))]])))
    told: list[Happening] = []
    house.pool.watch(told.append)
    task = asyncio.ensure_future(say(house))
    await house.until(lambda: house.states() == {"a": "busy"})
    while not house.script.num_running:
        await asyncio.sleep(0)
    await house.pool.close()
    with pytest.raises(EngineDied):
        await task
    await settled()
    assert not [each for each in told if isinstance(each, EngineCrashed)]
    assert told[-1] == ModelUnloaded("a:latest", "closing")


# What is told


async def test_what_happens_is_told() -> None:
    house = room_for_one(server=ServerSettings(max_queue=1))
    told: list[Happening] = []
    end = house.pool.watch(told.append)
    async with house.pool.lease("a"):
        two = client(house, "b")
        await house.until_waiting(1)
        await client(house, "b").fails()
    await two.is_served()
    await two.leave()
    await house.pool.stop("b:latest")
    async with house.loaded("a", keep_alive="0"):
        await house.until(lambda: not house.pool.residents())
    house.script.start_error = EngineStartFailed("It said no.")
    await client(house, "a").fails()
    await settled()
    loaded = [each for each in told if isinstance(each, ModelLoaded)]
    assert [each.name for each in loaded] == ["a:latest", "b:latest", "a:latest"]
    assert all(each.load_s >= 0 and each.num_bytes > 200 * MIB for each in loaded)
    assert [(each.name, each.why) for each in told if isinstance(each, ModelUnloaded)] == [
        ("a:latest", "evicted"),
        ("b:latest", "asked"),
        ("a:latest", "idle"),
    ]
    assert [each for each in told if isinstance(each, (Refused, LoadFailed))] == [
        Refused("b:latest", "queue_full"),
        LoadFailed("a:latest", "It said no."),
        Refused("a:latest", "start_failed"),
    ]
    assert sum(isinstance(each, LoadBegan) for each in told) == 4
    lengths = [each.num for each in told if isinstance(each, QueueLength)]
    assert set(lengths) == {0, 1} and lengths[-1] == 0
    end()
    num_told = len(told)
    await house.pool.close()
    await settled()
    assert len(told) == num_told


async def test_a_crash_is_told_and_a_watcher_that_fails_breaks_nothing() -> None:
    house = House(backend=EchoBackend(dying(3)))
    told: list[Happening] = []
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    def fail(happening: Happening) -> None:
        raise RuntimeError

    house.pool.watch(fail)
    house.pool.watch(told.append)
    await crash(house)
    assert isinstance(await client(house).fails(), ModelUnstable)
    await settled()
    assert [each for each in told if isinstance(each, EngineCrashed)] == [EngineCrashed("a:latest", "It died.")] * 3
    assert Refused("a:latest", "unstable") in told
    await house.pool.close()


async def test_what_engines_wrote_is_kept_when_they_are_gone(house: House) -> None:
    async with house.loaded("a", keep_alive="0"):
        await house.until(lambda: not house.pool.residents())
    assert [line.text for line in house.pool.logs.lines("a:latest")] == ["echo: ready"]


async def test_residents_with_their_counts() -> None:
    answers = [[Finished(("stop",), Usage(10, 20, 4))], [Finished(("stop",), Usage(1, 2))]]
    house = House(backend=EchoBackend(EchoScript(answers)))
    for _ in answers:
        await say(house)
    async with house.pool.lease("a"):
        waiting = client(house)
        await house.until_waiting(1)
        (shown,) = house.pool.residents()
        assert (shown.num_waiting, shown.num_leases, shown.num_requests, shown.num_crashes) == (1, 1, 2, 0)
        assert (shown.num_prompt_tokens, shown.num_generated_tokens, shown.num_cached_tokens) == (11, 22, 4)
        assert shown.load_s is not None and shown.load_s < 60 and not shown.pinned and shown.aliases == ()
        await waiting.cancel()
    async with house.pool.lease("a", "embed") as engine:
        await engine.embed(EmbeddingRequest(("one two",)))
    assert house.pool.residents()[-1].num_prompt_tokens == 2
    await house.pool.close()


# Memory as measured, and models that take none


class HeavyEngine(EchoEngine):
    """Says that it takes ``heavy_bytes``."""

    heavy_bytes = 0

    def status(self) -> EngineStatus:
        return EngineStatus("ready", None, self.heavy_bytes)


class HeavyBackend(EchoBackend):
    async def start(self, spec: EngineSpec, log: LogSink) -> Engine:  # type: ignore[override]
        engine = HeavyEngine(spec, self.script)
        engine.heavy_bytes = 700 * MIB
        return engine


async def test_a_model_that_takes_more_than_planned_counts_for_what_it_takes() -> None:
    """Its weights are mapped, so the system calls their memory free; it is not."""
    for backend, expected in ((EchoBackend(), {"a": "ready", "b": "busy"}), (HeavyBackend(), {"b": "busy"})):
        house = House(backend=backend, load=SMALL)
        house.models = {name: house.make(name, 200 * MIB) for name in "ab"}
        house.machine = Hardware("test", 1, 1, 900 * MIB, 900 * MIB)
        async with house.loaded("a"), house.pool.lease("b"):
            await settled()
            assert house.states() == expected
        await house.pool.close()


class FarBackend(EchoBackend):
    """Its models run elsewhere."""

    def probe(self) -> EngineInfo:
        return replace(super().probe(), devices=())


async def test_a_model_that_takes_nothing_here_is_always_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    house = room_for_one(max_models=1)
    planned = house.pool._plan

    def plan(model: Any, task: Any, load: Any, freed: Any) -> Plan:
        found = planned(model, task, load, freed)
        if not model.name.startswith("far"):
            return found
        assert found.spec is not None
        return replace(found, memory=(), devices=(), spec=replace(found.spec, num_slots=1 << 20))

    monkeypatch.setattr(house.pool, "_plan", plan)
    house.models["far"] = house.make("far", 1)
    async with house.loaded("far"), house.pool.lease("a"):
        waiting = client(house, "b")
        await house.until_waiting(1)
        async with AsyncExitStack() as stack:
            for _ in range(100):
                await asyncio.wait_for(stack.enter_async_context(house.pool.lease("far")), TIMEOUT_S)
            assert house.states() == {"far": "busy", "a": "busy"}
    await waiting.is_served()
    assert house.states() == {"far": "ready", "b": "busy"}
    await waiting.leave()
    await house.pool.close()


async def test_nothing_is_kept_of_those_who_were_refused_or_left() -> None:
    house = House(server=ServerSettings(max_queue=128))
    held = [client(house)]
    await held[0].is_served()
    held += [client(house) for _ in range(128)]
    await house.until_waiting(128)
    for _ in range(300):
        with pytest.raises(Busy):
            await say(house)
    assert len(house.pool._waiting) == len(house.pool._state.queue) == 128
    for one in held:
        one.task.cancel()
    results = await asyncio.gather(*(one.task for one in held), return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (house.pool._waiting, house.pool._state.queue) == ({}, ())
    await house.pool.close()


# Other contexts of a model that runs


def ctx(size: int) -> LoadOptions:
    return LoadOptions(ctx_size=size, parallel=1)


async def say_in(house: House, size: int, model: str = "a") -> int:
    """A request for a context of that size, as a dialect asks that has it in every request; the size that it got."""
    async with house.pool.lease(model, load=house.pool.suited(model, "generate", ctx(size))) as engine:
        return engine.spec.ctx_size


async def test_one_who_alternates_between_two_contexts_loads_twice_at_most(house: House) -> None:
    sizes = [await say_in(house, size) for size in (512, 1024, 512, 1024, 768)]
    assert sizes == [512, 1024, 1024, 1024, 1024]
    assert [spec.ctx_size for spec in house.script.started] == [512, 1024]
    await house.until(lambda: house.states() == {"a": "ready"})


async def test_nothing_is_unloaded_for_a_context_that_does_not_fit(house: House) -> None:
    # Half a megabyte for each token.
    info = replace(INFO, num_layers=32, num_heads=32, num_kv_heads=(32,) * 32, key_length=128, value_length=128)
    house.machine = Hardware("test", 1, 1, 1024 * MIB, 1024 * MIB)
    house.models = {"a": replace(house.make("a", 100 * MIB), info=info)}
    await say_in(house, 512)
    with pytest.raises(DoesNotFit):
        await say_in(house, 2048)
    await settled()
    assert house.states() == {"a": "ready"} and house.script.num_closed == 0
    assert await say_in(house, 512) == 512


async def test_a_pinned_model_stays_when_a_longer_context_is_asked_for() -> None:
    """A second copy comes where there is room, and goes as others do; where there is none, that is said."""
    house = with_models(a=ModelSettings(pin=True))
    assert [await say_in(house, size) for size in (512, 1024)] == [512, 1024]
    assert [(each.ctx_size, each.pinned, each.state) for each in house.pool.residents()] == [
        (512, True, "ready"),
        (1024, False, "ready"),
    ]
    assert [await say_in(house, size) for size in (512, 1024)] == [512, 1024]
    assert len(house.script.started) == 2
    await house.pool.close()

    tight = room_for_one(models={"a": ModelSettings(pin=True)})
    await say_in(tight, 512)
    with pytest.raises(DoesNotFit, match="a:latest"):
        await say_in(tight, 1024)
    assert [(each.ctx_size, each.state) for each in tight.pool.residents()] == [(512, "ready")]
    await tight.pool.close()


# Engines that ended


async def test_an_engine_that_ended_goes_before_one_that_lives() -> None:
    house = room_for_one()
    house.machine = Hardware("test", 1, 1, 700 * MIB, 700 * MIB)
    house.models["c"] = house.make("c", 200 * MIB)
    await say(house, "b")
    house.script.answers.append([Fail(EngineDied("It died."))])
    with pytest.raises(EngineDied):
        await say(house, "a")
    assert house.states() == {"a": "failed", "b": "ready"}
    await say(house, "c")
    assert house.states() == {"b": "ready", "c": "ready"}
    await house.pool.close()


@pytest.mark.parametrize(
    ("trained", "ctx_size", "expected"), [(2048, 2048, True), (2048, 4096, True), (2048, 2047, False), (None, 2048, False)]
)
async def test_a_prompt_too_long_for_the_model_itself_is_told_from_one_too_long_for_its_context(
    house: House, trained: int | None, ctx_size: int, expected: bool
) -> None:
    house.models = {"a": replace(house.make("a"), info=replace(INFO, context_length=trained))}
    house.script.answers.append((Fail(ContextTooLong(9000, ctx_size)),))
    with pytest.raises(ContextTooLong) as caught:
        await say(house)
    error = caught.value
    assert (error.is_models_limit, error.num_prompt_tokens, error.ctx_size) == (expected, 9000, ctx_size)
    assert error.hint_text is not None and ("--ctx-size" in error.hint_text) is not expected
