"""The pool with the scripted engine: it loads, shares, waits and unloads as the scheduler says, whatever is cancelled when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from support.house import INFO, MIB, TIMEOUT_S, House, client
from zhibei.chat import ChatRequest, Message
from zhibei.engines.base import LogSink
from zhibei.engines.echo import EchoBackend, EchoEngine, EchoScript
from zhibei.errors import (
    BadRequest,
    BadSetting,
    Busy,
    DoesNotFit,
    EngineMissing,
    EngineStartFailed,
    ModelBroken,
    ModelNotFound,
    Unsupported,
    ZhibeiError,
)
from zhibei.events import Finished, Timings, Usage
from zhibei.models import Layer, StoredFile
from zhibei.options import LoadOptions
from zhibei.plans import EngineInfo, EngineSpec, Gpu, Hardware
from zhibei.runtime.shortage import lacks_memory
from zhibei.settings import ServerSettings


class SlowBackend(EchoBackend):
    """Its engines close when ``may_close`` is set."""

    def __init__(self, script: EchoScript) -> None:
        super().__init__(script)
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()

    async def start(self, spec: EngineSpec, log: LogSink) -> EchoEngine:
        engine = await super().start(spec, log)
        close = engine.close

        async def slowly() -> None:
            self.closing.set()
            await self.may_close.wait()
            await close()

        engine.close = slowly  # type: ignore[method-assign]
        return engine


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    yield made
    await made.pool.close()


# Sharing


async def test_a_lease_loads_and_the_next_one_shares(house: House) -> None:
    async with house.pool.lease("a") as first:
        assert house.states() == {"a": "busy"}
    assert house.states() == {"a": "ready"}
    async with house.pool.lease("a") as second:
        assert second is first
    assert len(house.script.started) == 1


async def test_requests_that_come_while_a_model_loads_share_its_start() -> None:
    house = House(load=LoadOptions(parallel=3))
    house.script.load = asyncio.Event()
    clients = [client(house) for _ in range(3)]
    await house.until_waiting(3)
    assert house.states() == {"a": "starting"}
    house.script.load.set()
    engines = [await one.is_served() for one in clients]
    assert engines[0] is engines[1] is engines[2]
    assert len(house.script.started) == 1
    for one in clients:
        await one.leave()
    await house.pool.close()


async def test_requests_wait_for_a_slot_first_come_first_served(house: House) -> None:
    clients = [client(house) for _ in range(4)]
    order = []
    for number, one in enumerate(clients):
        await one.is_served()
        order.append(number)
        assert [other.entered.is_set() for other in clients[number + 1 :]] == [False] * (3 - number)
        await one.leave()
    assert len(house.script.started) == 1


async def test_an_error_in_the_body_frees_the_slot(house: House) -> None:
    with pytest.raises(ZeroDivisionError):
        async with house.pool.lease("a"):
            _ = 1 / 0
    async with house.pool.lease("a"):
        pass


async def test_other_load_options_are_another_engine(house: House) -> None:
    async with house.pool.lease("a", load=LoadOptions(ctx_size=512)) as first, house.pool.lease("a") as second:
        assert first is not second
        assert first.spec.ctx_size == 512
    async with house.pool.lease("a", load=LoadOptions(ctx_size=512)) as again:
        assert again is first
    async with house.pool.lease("a", "embed") as third:
        assert third not in (first, second) and third.spec.task == "embed"
    assert len(house.pool.residents()) == 3


async def test_options_that_say_what_the_settings_say_are_the_same_engine() -> None:
    house = House(load=LoadOptions(ctx_size=512, threads=3))
    async with house.pool.lease("a") as first, house.pool.lease("b") as other:
        assert (first.spec.ctx_size, first.spec.threads) == (512, 3)
        assert other is not first
    async with house.pool.lease("a", load=LoadOptions(threads=3)) as second:
        assert second is first
    await house.pool.close()


async def test_a_model_that_was_replaced_on_disk_is_another_one(house: House) -> None:
    async with house.pool.lease("a") as first:
        pass
    house.models["a"] = replace(house.make("a"), files=(StoredFile("model", Path("/models/new.gguf"), MIB),))
    async with house.pool.lease("a") as second:
        assert second.spec.model_path == "/models/new.gguf" != first.spec.model_path


async def test_is_loaded(house: House) -> None:
    assert not house.pool.is_loaded("a")
    async with house.pool.lease("a", load=LoadOptions(threads=2)):
        assert house.pool.is_loaded("a", "generate", LoadOptions(threads=2))
        assert not house.pool.is_loaded("a")
        assert not house.pool.is_loaded("a", "embed", LoadOptions(threads=2))
    with pytest.raises(ModelNotFound):
        house.pool.is_loaded("none")


# Cancelling


async def test_cancelled_while_it_loads(house: House) -> None:
    house.script.load = asyncio.Event()
    one, two = client(house), client(house)
    await house.until_waiting(2)
    await one.cancel()
    house.script.load.set()
    await two.is_served()
    await two.leave()
    assert house.states() == {"a": "ready"}


async def test_a_load_that_nobody_waits_for_any_more_is_kept_for_the_next(house: House) -> None:
    house.script.load = asyncio.Event()
    one = client(house)
    await house.until_waiting(1)
    await one.cancel()
    assert house.pool.num_waiting == 0
    house.script.load.set()
    await house.until(lambda: house.states() == {"a": "ready"})
    async with house.pool.lease("a"):
        assert len(house.script.started) == 1


async def test_cancelled_while_it_waits_for_a_slot(house: House) -> None:
    one, two, three = client(house), client(house), client(house)
    await one.is_served()
    await house.until_waiting(2)
    await two.cancel()
    await one.leave()
    await three.is_served()
    await three.leave()


async def test_cancelled_while_it_runs(house: House) -> None:
    one, two = client(house), client(house)
    await one.is_served()
    await house.until_waiting(1)
    await one.cancel()
    await two.is_served()
    await two.leave()


@pytest.mark.parametrize("first", ["cancel", "leave"])
async def test_cancelled_in_the_moment_in_which_it_is_served(house: House, first: str) -> None:
    """The slot that a cancelled client was given before it knew must come back."""
    two = client(house)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(house.pool.lease("a"))
        await house.until_waiting(1)
        if first == "cancel":
            two.task.cancel()
        await stack.aclose()
        two.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await two.task
    assert [resident.num_leases for resident in house.pool.residents()] == [0]
    async with house.pool.lease("a"):
        pass


async def test_cancelled_in_the_moment_in_which_it_is_refused(house: House) -> None:
    house.script.load = asyncio.Event()
    one = client(house)
    await house.until_waiting(1)
    draining = asyncio.ensure_future(house.pool.drain())
    await asyncio.sleep(0)
    one.task.cancel()
    with pytest.raises((asyncio.CancelledError, Busy)):
        await one.task
    await draining
    house.script.load.set()


async def test_cancelled_while_it_waits_for_memory() -> None:
    house = House()
    house.machine = Hardware("test", 1, 1, 400 * MIB, 400 * MIB)
    one = client(house, "a", load=LoadOptions(ctx_size=512))
    await one.is_served()
    two, three = client(house, "b", load=LoadOptions(ctx_size=512)), client(house, "a", load=LoadOptions(ctx_size=512))
    house.models["b"] = house.make("b", 200 * MIB)
    await house.until_waiting(2)
    await two.cancel()
    await one.leave()
    await three.is_served()
    await three.leave()
    assert [spec.model_name for spec in house.script.started] == ["a:latest"]
    await house.pool.close()


# Keeping and unloading


async def test_an_idle_model_is_unloaded_when_its_time_is_over(house: House) -> None:
    async with house.pool.lease("a", keep_alive="20ms"):
        assert house.pool.residents()[0].expires_at is None
    await house.until(lambda: not house.pool.residents())
    assert house.script.num_closed == 1


async def test_the_settings_say_how_long_by_default() -> None:
    house = House(keep_alive="1ms")
    async with house.loaded("a"):
        await house.until(lambda: not house.pool.residents())
    async with house.loaded("a", keep_alive="1h"):
        expires = house.pool.residents()[0].expires_at
        assert expires is not None
        assert timedelta(minutes=59) < expires - datetime.now(timezone.utc) <= timedelta(hours=1)
    await house.pool.close()


async def test_keep_alive_0_unloads_at_release_unless_somebody_waits(house: House) -> None:
    one, two = client(house, keep_alive="0"), client(house, keep_alive="0")
    first = await one.is_served()
    await house.until_waiting(1)
    await one.leave()
    assert await two.is_served() is first
    await two.leave()
    await house.until(lambda: not house.pool.residents())
    assert house.script.num_closed == 1


async def test_forever_sets_no_timer(house: House) -> None:
    async with house.loaded("a", keep_alive="forever"):
        assert house.pool._timer is None
        assert house.pool.residents()[0].expires_at is None
    async with house.loaded("a", keep_alive="5m"):
        assert house.pool._timer is not None


async def test_the_longest_keep_alive_can_be_shown(house: House) -> None:
    async with house.loaded("a", keep_alive="999999999"):
        assert house.pool.residents()[0].expires_at is not None


async def test_a_keep_alive_that_is_none(house: House) -> None:
    with pytest.raises(BadRequest):
        async with house.pool.lease("a", keep_alive="a while"):
            pass
    assert house.script.started == []


async def test_stopping_an_idle_model(house: House) -> None:
    async with house.loaded("a", "b"):
        await house.pool.stop("a:latest")
        assert house.states() == {"b": "ready"}
    with pytest.raises(ModelNotFound):
        await house.pool.stop("a:latest")


async def test_stopping_a_busy_model_waits_for_its_requests(house: House) -> None:
    one = client(house)
    first = await one.is_served()
    stopping = asyncio.ensure_future(house.pool.stop("a:latest"))
    two = client(house)
    await house.until_waiting(1)
    assert not stopping.done()
    await one.leave()
    second = await two.is_served()
    await asyncio.wait_for(stopping, TIMEOUT_S)
    assert second is not first
    await two.leave()
    assert house.states() == {"a": "ready"}


async def test_stopping_a_model_stops_all_that_it_was_loaded_for(house: House) -> None:
    async with house.loaded("a"), house.loaded("a", load=LoadOptions(ctx_size=512)), house.loaded("b"):
        await house.pool.stop("a:latest")
        assert house.states() == {"b": "ready"}


async def test_stopping_a_model_while_it_loads(house: House) -> None:
    house.script.load = asyncio.Event()
    one = client(house)
    await house.until_waiting(1)
    stopping = asyncio.ensure_future(house.pool.stop("a:latest"))
    await house.until(lambda: all(model.doomed for model in house.pool._state.models.values()))
    house.script.load.set()
    await asyncio.wait_for(stopping, TIMEOUT_S)
    await one.is_served()
    assert len(house.script.started) == 2
    await one.leave()


# Draining and closing


async def test_draining_lets_what_runs_end_and_refuses_the_rest(house: House) -> None:
    one, two = client(house), client(house)
    await one.is_served()
    await house.until_waiting(1)
    draining = asyncio.ensure_future(house.pool.drain())
    refused = await two.fails()
    assert isinstance(refused, Busy) and refused.retry_after_s > 1
    assert isinstance(await client(house).fails(), Busy)
    assert not draining.done()
    await one.leave()
    await asyncio.wait_for(draining, TIMEOUT_S)


async def test_closing_stops_every_engine_and_may_be_done_again() -> None:
    house = House()
    async with house.loaded("a", "b"):
        await house.pool.close()
        await house.pool.close()
    assert house.script.num_closed == 2
    assert house.pool.residents() == ()
    assert house.pool._timer is None
    assert isinstance(await client(house).fails(), Busy)


async def test_closing_under_a_running_request() -> None:
    house = House()
    one = client(house)
    await one.is_served()
    await house.pool.close()
    assert house.script.num_closed == 1
    await one.leave()
    assert house.pool.residents() == ()


async def test_closing_while_a_model_loads_gives_up_the_load() -> None:
    house = House()
    house.script.load = asyncio.Event()
    one = client(house)
    await house.until_waiting(1)
    await asyncio.wait_for(house.pool.close(), TIMEOUT_S)
    assert isinstance(await one.fails(), Busy)
    assert (house.script.started, house.pool.residents()) == ([], ())


async def test_closing_while_a_model_unloads_waits_for_it() -> None:
    backend = SlowBackend(EchoScript())
    house = House(backend=backend)
    async with house.loaded("a", keep_alive="0"):
        await asyncio.wait_for(backend.closing.wait(), TIMEOUT_S)
    closing = asyncio.ensure_future(house.pool.close())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not closing.done()
    backend.may_close.set()
    await asyncio.wait_for(closing, TIMEOUT_S)
    assert house.script.num_closed == 1


async def test_closing_wakes_those_who_wait_for_a_change() -> None:
    house = House()
    one = client(house)
    await one.is_served()
    draining, stopping = asyncio.ensure_future(house.pool.drain()), asyncio.ensure_future(house.pool.stop("a:latest"))
    await asyncio.sleep(0)
    await house.pool.close()
    await asyncio.wait_for(asyncio.gather(draining, stopping), TIMEOUT_S)
    await one.leave()


# Failures


async def test_a_start_that_fails_is_everybodys_failure_and_the_next_request_tries_again(house: House) -> None:
    house.script.load = asyncio.Event()
    house.script.start_error = EngineStartFailed("It said no.", log_tail=("no",))
    one, two = client(house), client(house)
    await house.until_waiting(2)
    house.script.load.set()
    assert await one.fails() is house.script.start_error
    assert await two.fails() is house.script.start_error
    assert house.pool.residents() == ()
    house.script.start_error = None
    async with house.pool.lease("a"):
        pass


async def test_a_failed_start_leaves_other_models_alone(house: House) -> None:
    async with house.loaded("a"):
        house.script.start_error = EngineMissing("Not there.")
        assert isinstance(await client(house, "b").fails(), EngineMissing)
        async with house.pool.lease("a"):
            assert house.states() == {"a": "busy"}


async def test_an_error_nobody_expected_does_not_leave_the_request_waiting_for_ever(house: House) -> None:
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    house.script.start_error = RuntimeError("a bug")  # type: ignore[assignment]
    assert isinstance(await client(house).fails(), EngineStartFailed)
    house.script.start_error = None
    async with house.pool.lease("a"):
        pass


async def test_a_load_that_takes_too_long() -> None:
    house = House(load_timeout_s=0.01)
    house.script.load = asyncio.Event()
    error = await client(house).fails()
    assert isinstance(error, EngineStartFailed) and "a:latest" in str(error)
    assert house.pool.residents() == ()
    await house.pool.close()


async def test_a_full_queue() -> None:
    house = House(server=ServerSettings(max_queue=1))
    one = client(house)
    await one.is_served()
    two = client(house)
    await house.until_waiting(1)
    error = await client(house).fails()
    assert isinstance(error, Busy) and "1" in str(error)
    await one.leave()
    await two.is_served()
    await two.leave()
    await house.pool.close()


@pytest.mark.parametrize(("name", "error"), [("none", ModelNotFound), ("broken", ModelBroken)])
async def test_no_model_to_run(house: House, name: str, error: type[ZhibeiError]) -> None:
    with pytest.raises(error):
        async with house.pool.lease(name):
            pass
    assert house.pool.num_waiting == 0


async def test_no_engine_to_run_it() -> None:
    with pytest.raises(BadSetting):
        async with House(engine="nothing").pool.lease("a"):
            pass

    class NotThere(EchoBackend):
        def probe(self) -> EngineInfo:
            return EngineInfo("echo", False, formats=("gguf",), tasks=("generate",), problem="Not there.", hint="Install it.")

    with pytest.raises(EngineMissing, match=r"Not there\."):
        async with House(backend=NotThere()).pool.lease("a"):
            pass


# Memory


async def test_what_does_not_fit_is_said_before_anything_starts() -> None:
    house = House()
    house.machine = Hardware("test", 1, 1, 64 * MIB, 50 * MIB)
    with pytest.raises(DoesNotFit) as caught:
        async with house.pool.lease("a"):
            pass
    assert "50.0 MiB" in str(caught.value) and caught.value.hint_text
    assert house.script.started == []


async def test_an_idle_model_makes_room() -> None:
    house = House()
    house.machine = Hardware("test", 1, 1, 400 * MIB, 400 * MIB)
    async with house.loaded("a"):
        house.models["b"] = house.make("b", 250 * MIB)
        async with house.pool.lease("b"):
            assert house.states() == {"b": "busy"}
    assert house.script.num_closed == 1
    await house.pool.close()


async def test_a_busy_model_makes_room_when_it_is_done() -> None:
    house = House()
    house.machine = Hardware("test", 1, 1, 400 * MIB, 400 * MIB)
    one = client(house, "a")
    await one.is_served()
    house.models["b"] = house.make("b", 250 * MIB)
    two = client(house, "b")
    await house.until_waiting(1)
    await one.leave()
    await two.is_served()
    assert house.states() == {"b": "busy"}
    await two.leave()
    await house.pool.close()


async def test_memory_that_the_system_counts_twice() -> None:
    """The machine says 400 MiB are available, all the time: the weights are mapped, so it could drop them."""
    house = House(keep_alive="forever")
    house.machine = Hardware("test", 1, 1, 400 * MIB, 400 * MIB)
    async with house.loaded("a", "b", "c"):
        planned = sum(resident.planned_bytes for resident in house.pool.residents())
        assert planned <= 400 * MIB
        assert set(house.states()) == {"b", "c"} or set(house.states()) == {"c"}
    await house.pool.close()


async def test_no_more_models_than_the_settings_allow() -> None:
    house = House(max_models=1)
    async with house.loaded("a", "b"):
        assert house.states() == {"b": "ready"}
    await house.pool.close()


async def test_the_plan_is_the_launch(house: House) -> None:
    planned = house.pool.plan(house.resolve("a"), "generate", LoadOptions(parallel=1))
    async with house.pool.lease("a") as engine:
        assert engine.spec == planned.spec
        assert house.pool.residents()[0].planned_bytes == planned.total_bytes


# What is shown and what is named


async def test_residents(house: House) -> None:
    async with house.pool.lease("a", load=LoadOptions(ctx_size=512, parallel=2)):
        (shown,) = house.pool.residents()
    assert (shown.name, shown.engine, shown.task, shown.state) == ("a:latest", "echo", "generate", "busy")
    assert (shown.pid, shown.ctx_size, shown.num_slots, shown.num_leases) == (None, 512, 2, 1)
    assert shown.planned_bytes > 100 * MIB and shown.measured_bytes == 0


async def test_files_that_the_options_name(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine's process has another working directory, so relative paths become whole ones; a scale stays with its file."""
    monkeypatch.chdir(tmp_path)
    for name in ("one.gguf", "two.gguf", "eye.gguf", "small.gguf"):
        Path(name).write_bytes(b"x" * MIB)
    load = LoadOptions(
        lora=(("one.gguf", 0.5), (f"./{tmp_path.name}/../two.gguf", 2.0)),
        mmproj="eye.gguf",
        draft_model=str(tmp_path / "small.gguf"),
    )
    (tmp_path / tmp_path.name).mkdir()
    async with house.pool.lease("a", load=load) as engine:
        spec = engine.spec
        assert spec.lora == ((str(tmp_path / "one.gguf"), 0.5), (f"{tmp_path}/{tmp_path.name}/../two.gguf", 2.0))
        assert spec.mmproj_path == str(tmp_path / "eye.gguf")
        assert spec.draft_model_path == str(tmp_path / "small.gguf")
    without = house.pool.plan(house.resolve("b"), "generate", LoadOptions(parallel=1))
    assert house.pool.residents()[0].planned_bytes == without.total_bytes + 4 * MIB


@pytest.mark.parametrize(
    "load", [LoadOptions(lora=(("none.gguf", 1.0),)), LoadOptions(mmproj="none"), LoadOptions(draft_model="none")]
)
async def test_files_that_are_not_there(house: House, load: LoadOptions) -> None:
    with pytest.raises(ModelNotFound, match="none"):
        async with house.pool.lease("a", load=load):
            pass
    assert house.script.started == []


async def test_what_is_known_of_models_does_not_grow_for_ever(house: House) -> None:
    for ctx_size in range(256, 266):
        async with house.pool.lease("a", load=LoadOptions(ctx_size=ctx_size), keep_alive="0"):
            pass
    await house.until(lambda: not house.pool.residents())
    assert (len(house.pool._wanted), len(house.pool._waiting), len(house.pool._failures)) == (0, 0, 0)


# Running out of memory while loading


class CrampedBackend(EchoBackend):
    """Fails for lack of memory where ``is_enough`` says that there is not enough."""

    def __init__(self, is_enough: Callable[[EngineSpec], bool], log: tuple[str, ...] = ("failed to allocate buffer",)) -> None:
        super().__init__()
        self.is_enough = is_enough
        self.log = log
        self.tried: list[EngineSpec] = []

    async def start(self, spec: EngineSpec, log: LogSink) -> EchoEngine:
        self.tried.append(spec)
        if not self.is_enough(spec):
            raise EngineStartFailed("{model} could not be loaded.", log_tail=self.log, model=spec.model_name)
        return await super().start(spec, log)


async def test_a_load_without_memory_stops_idle_models_and_tries_again() -> None:
    house = House(backend=CrampedBackend(lambda spec: spec.model_name == "a:latest" or not house.states().get("a")))
    async with house.loaded("a", keep_alive="forever"), house.pool.lease("b") as engine:
        assert house.states() == {"b": "busy"}
        assert engine.spec.ctx_size == 2048, "the context is as it was"
    await house.pool.close()


async def test_a_load_without_memory_leaves_busy_models_alone() -> None:
    house = House(backend=CrampedBackend(lambda spec: spec.model_name == "a:latest"))
    async with house.pool.lease("a"):
        error = await client(house, "b", load=LoadOptions(ctx_size=512)).fails()
        assert isinstance(error, DoesNotFit)
        assert house.states() == {"a": "busy"}
    await house.pool.close()


async def test_an_automatic_context_is_halved_once() -> None:
    backend = CrampedBackend(lambda spec: spec.ctx_size <= 1024)
    house = House(backend=backend, load=LoadOptions())
    async with house.pool.lease("a") as engine:
        assert [spec.ctx_size for spec in backend.tried] == [2048, 1024]
        assert engine.spec == backend.tried[-1] and engine.spec.num_slots == 1
        (shown,) = house.pool.residents()
        assert shown.ctx_size == 1024, "what runs is what is shown"
    await house.pool.close()


async def test_what_never_fits_is_an_error_that_says_what_is_needed() -> None:
    backend = CrampedBackend(lambda spec: False)
    house = House(backend=backend)
    error = await client(house, "a").fails()
    assert isinstance(error, DoesNotFit) and "48.0 GiB" in str(error) and error.hint_text
    assert [spec.ctx_size for spec in backend.tried] == [2048, 1024]
    assert house.pool.residents() == ()
    backend.is_enough = lambda spec: True
    async with house.pool.lease("a") as engine:
        assert engine.spec.ctx_size == 2048, "the next request is planned anew"
    await house.pool.close()


async def test_a_context_that_was_asked_for_is_never_changed() -> None:
    backend = CrampedBackend(lambda spec: spec.ctx_size < 2048)
    house = House(backend=backend)
    assert isinstance(await client(house, "a", load=LoadOptions(ctx_size=2048)).fails(), DoesNotFit)
    assert [spec.ctx_size for spec in backend.tried] == [2048]
    await house.pool.close()


async def test_another_failure_is_not_tried_again() -> None:
    backend = CrampedBackend(lambda spec: False, log=("unknown model architecture",))
    house = House(backend=backend)
    error = await client(house, "a").fails()
    assert isinstance(error, EngineStartFailed) and len(backend.tried) == 1
    await house.pool.close()


@pytest.mark.parametrize(
    ("code", "log", "expected"),
    [
        ("signal 9", (), True),
        ("exit code 1", ("E ggml_aligned_malloc: insufficient memory (attempted to allocate 65536.00 MB)",), True),
        ("exit code 1", ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory",), True),
        ("std::bad_alloc", (), True),
        ("signal 11", (), False),
        ("exit code 1", ("error loading model: missing tensor",), False),
    ],
)
def test_what_tells_of_too_little_memory(code: str, log: tuple[str, ...], expected: bool) -> None:
    assert lacks_memory(EngineStartFailed("{code}", log_tail=log, code=code)) is expected


# Graphics processors


def with_card(free_mib: int) -> Hardware:
    card = Gpu("card", "NVIDIA", 8000 * MIB, free_mib * MIB)
    return Hardware("test", 4, 8, 64 << 30, 48 << 30, (card,), backends=("cuda",))


class CudaBackend(EchoBackend):
    def probe(self) -> EngineInfo:
        return replace(super().probe(), devices=("cpu", "cuda"))


LAYERED = replace(
    INFO,
    layers=(Layer("attention", 8, 8, 8, 64, 64, feed_forward_length=64, dense_bytes=400 * MIB),),
    output_bytes=MIB,
    embedding_bytes=MIB,
)


async def test_an_idle_model_makes_room_on_the_card() -> None:
    house = House(backend=CudaBackend(), keep_alive="forever")
    house.models = {name: replace(house.make(name, 3200 * MIB), info=LAYERED) for name in "ab"}
    house.machine = with_card(7000)
    async with house.loaded("a"):
        house.machine = with_card(2500)
        async with house.pool.lease("b") as engine:
            assert engine.spec.gpu_layers == 9, "planned as if the idle one were gone"
            assert house.states() == {"b": "busy"}
    await house.pool.close()


async def test_a_busy_model_keeps_its_card_and_the_next_is_computed_by_the_processor() -> None:
    house = House(backend=CudaBackend(), keep_alive="forever")
    house.models = {name: replace(house.make(name, 3200 * MIB), info=LAYERED) for name in "ab"}
    house.machine = with_card(7000)
    async with house.pool.lease("a") as first:
        assert first.spec.gpu_layers == 9
        house.machine = with_card(400)
        async with house.pool.lease("b") as second:
            assert second.spec.gpu_layers == 0
            assert house.states() == {"a": "busy", "b": "busy"}
    await house.pool.close()


async def test_more_layers_than_the_card_holds_are_an_error_that_names_it() -> None:
    house = House(backend=CudaBackend())
    house.models["a"] = replace(house.make("a", 3200 * MIB), info=LAYERED)
    house.machine = with_card(2000)
    error = await client(house, "a", load=LoadOptions(gpu_layers=99)).fails()
    assert isinstance(error, DoesNotFit) and str(error).startswith("On card it needs") and "--gpu-layers" in str(error.hint_text)
    await house.pool.close()


async def test_what_the_engine_cannot_do_is_said_before_anything_starts(house: House) -> None:
    error = await client(house, "a", load=LoadOptions(cache_type_v="q4_0", flash_attn="off")).fails()
    assert isinstance(error, Unsupported) and "q4_0" in str(error)
    assert house.script.started == []


# Speed


async def test_measured_speed_is_shown_beside_the_predicted() -> None:
    timings = Timings(num_prompt_tokens=10, prompt_s=1.0, num_generated_tokens=20, generation_s=4.0)
    short = Timings(num_prompt_tokens=10, prompt_s=1.0, num_generated_tokens=2, generation_s=4.0)
    answers = [[Finished(("stop",), Usage(10, 20), told)] for told in (timings, short)]
    house = House(backend=EchoBackend(EchoScript(answers)))
    house.models["a"] = replace(house.make("a"), info=replace(LAYERED, tensor_types=(("Q4_K", 10, 3200 * MIB),)))
    house.machine = replace(house.machine, bandwidth_bytes_per_s=50 * 10**9)
    async with house.pool.lease("a") as engine:
        assert house.pool.residents()[0].measured_tokens_per_s is None
        for _ in answers:
            async for _event in engine.chat(ChatRequest((Message.of("user", "hi"),))):
                pass
            assert house.pool.residents()[0].measured_tokens_per_s == 5.0, "a short answer says little"
        predicted = house.pool.residents()[0].predicted_tokens_per_s
        assert predicted is not None and 5 < predicted < 20
    await house.pool.close()
