"""The pool under any order of requests, loads, crashes and departures, with engines whose starts and stops a test lets happen."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.house import MIB, House
from zhibei.engines.base import LogSink
from zhibei.engines.echo import EchoBackend, EchoEngine
from zhibei.errors import Busy, DoesNotFit, EngineStartFailed, ModelNotFound
from zhibei.options import LoadOptions
from zhibei.plans import EngineSpec, Hardware
from zhibei.runtime.happenings import Happening, ModelUnloaded
from zhibei.settings import ModelSettings, ServerSettings

WEIGHTS = {"a": 100, "b": 100, "c": 250, "pinned": 60}
TOTAL = 500 * MIB


class GatedBackend(EchoBackend):
    """Starts and stops end when the test says so; what is loaded at any time is known."""

    def __init__(self) -> None:
        super().__init__()
        self.starting: dict[str, asyncio.Future[bool]] = {}
        self.stopping: dict[str, asyncio.Future[bool]] = {}
        self.loaded: Counter[str] = Counter()

    async def start(self, spec: EngineSpec, log: LogSink) -> EchoEngine:
        name = spec.model_name
        assert name not in self.starting and not self.loaded[name], "never two loaders for one model"
        gate = self.starting[name] = asyncio.get_running_loop().create_future()
        try:
            if not await gate:
                raise EngineStartFailed("It said no.", code="a reason")
        finally:
            del self.starting[name]
        engine = await super().start(spec, log)
        self.loaded[name] += 1
        close = engine.close

        async def gated() -> None:
            leaving = self.stopping[name] = asyncio.get_running_loop().create_future()
            try:
                await leaving
            finally:
                del self.stopping[name]
                self.loaded[name] -= 1
            await close()

        engine.close = gated  # type: ignore[method-assign]
        return engine


@dataclass(eq=False)
class Request:
    """One under way."""

    name: str
    task: asyncio.Task[None]
    may_leave: asyncio.Event
    served: bool = False


class PoolAtWork(RuleBasedStateMachine):
    """Everything happens between two steps; after each step the pool has come to rest."""

    @initialize(max_queue=st.integers(1, 6), max_models=st.sampled_from([0, 0, 2]), slots=st.integers(1, 2))
    def begin(self, max_queue: int, max_models: int, slots: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.backend = GatedBackend()
        self.house = House(
            backend=self.backend,
            models={"pinned": ModelSettings(pin=True)},
            server=ServerSettings(max_queue=max_queue),
            max_models=max_models,
            load=LoadOptions(ctx_size=256, parallel=slots),
        )
        self.house.machine = Hardware("test", 1, 1, TOTAL, TOTAL)
        self.house.models = {name: self.house.make(name, size * MIB) for name, size in WEIGHTS.items()}
        self.slots = slots
        self.told: list[Happening] = []
        self.house.pool.watch(self.told.append)
        self.requests: list[Request] = []
        self.stops: list[asyncio.Task[None]] = []

    def rest(self) -> None:
        async def turns() -> None:
            for _ in range(25):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        self.requests = [request for request in self.requests if not self.is_over(request)]

    def is_over(self, request: Request) -> bool:
        if not request.task.done():
            return False
        if not request.task.cancelled() and (error := request.task.exception()) is not None:
            assert isinstance(error, (Busy, DoesNotFit, EngineStartFailed)), error
        return True

    async def ask(self, request: Request, owner: str) -> None:
        async with self.house.pool.lease(request.name, owner=owner, keep_alive="forever"):
            request.served = True
            await request.may_leave.wait()

    @rule(name=st.sampled_from(sorted(WEIGHTS)), owner=st.sampled_from(["", "x", "y"]))
    def request(self, name: str, owner: str) -> None:
        async def begin() -> None:
            request = Request(name, asyncio.current_task(), asyncio.Event())  # type: ignore[arg-type]
            request.task = asyncio.ensure_future(self.ask(request, owner))
            self.requests.append(request)

        self.loop.run_until_complete(begin())
        self.rest()

    @precondition(lambda self: self.backend.starting)
    @rule(data=st.data(), works=st.sampled_from([True, True, True, False]))
    def start_ends(self, data: st.DataObject, works: bool) -> None:
        self.backend.starting[data.draw(st.sampled_from(sorted(self.backend.starting)))].set_result(works)
        self.rest()

    @precondition(lambda self: self.backend.stopping)
    @rule(data=st.data())
    def stop_ends(self, data: st.DataObject) -> None:
        self.backend.stopping[data.draw(st.sampled_from(sorted(self.backend.stopping)))].set_result(True)
        self.rest()

    @precondition(lambda self: any(request.served for request in self.requests))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([request for request in self.requests if request.served])).may_leave.set()
        self.rest()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def go_away(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.requests)).task.cancel()
        self.rest()

    @precondition(lambda self: self.backend.loaded.total())
    @rule(name=st.sampled_from(sorted(WEIGHTS)))
    def ask_to_stop(self, name: str) -> None:
        async def stop() -> None:
            with suppress(ModelNotFound):
                await self.house.pool.stop(f"{name}:latest")

        self.stops.append(self.loop.create_task(stop()))
        self.rest()

    @invariant()
    def what_it_says_is_what_is(self) -> None:
        if not hasattr(self, "house"):
            return
        pool = self.house.pool
        residents = {shown.name: shown for shown in pool.residents()}
        assert set(residents) == {*self.backend.starting, *(name for name, num in self.backend.loaded.items() if num)}
        for name, shown in residents.items():
            served = [request for request in self.requests if request.served and f"{request.name}:latest" == name]
            assert shown.num_leases == len(served) <= self.slots
        held = sum(model.held_bytes for model in pool._state.models.values())
        assert held <= TOTAL, "no more is given away than there is"
        assert pool.num_waiting == sum(not request.served for request in self.requests) <= self.house.settings.server.max_queue
        assert not self.house.settings.max_models or len(residents) <= self.house.settings.max_models
        unloaded = [each for each in self.told if isinstance(each, ModelUnloaded) and each.name == "pinned:latest"]
        assert all(each.why == "asked" for each in unloaded), "a pinned model goes by hand alone"
        is_moving = self.backend.starting or self.backend.stopping or any(request.served for request in self.requests)
        assert not pool.num_waiting or is_moving, "whoever waits waits for something"

    def teardown(self) -> None:
        if not hasattr(self, "house"):
            return
        for _ in range(500):
            if not self.requests and not self.backend.starting and not self.backend.stopping:
                break
            for gate in [*self.backend.starting.values(), *self.backend.stopping.values()]:
                gate.set_result(True)
            for request in self.requests:
                if request.served:
                    request.may_leave.set()
            self.rest()
            self.what_it_says_is_what_is()
        assert not self.requests, "in the end everybody is served or refused"

        async def close() -> None:
            closing = asyncio.ensure_future(self.house.pool.close())
            while not closing.done():
                for gate in [*self.backend.starting.values(), *self.backend.stopping.values()]:
                    if not gate.done():
                        gate.set_result(True)
                await asyncio.sleep(0)
            await closing
            for _ in range(5):
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing is left behind"

        try:
            self.loop.run_until_complete(close())
        finally:
            self.loop.close()
        assert not self.backend.loaded.total()
        assert self.house.pool.residents() == ()


PoolAtWork.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPool = PoolAtWork.TestCase
