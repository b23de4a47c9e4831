"""What the server counts, as Prometheus reads it. Owns the names of all series and their labels; one registry for each App.

A client cannot make label values: routes are patterns, models are named as the store names them once one is at hand, methods
and statuses are of a fixed set. Nothing is counted for each token: only the first one, and the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zhibei import __version__
from zhibei.app import App
from zhibei.errors import Busy
from zhibei.events import Finished
from zhibei.plans import Hardware
from zhibei.runtime.happenings import EngineCrashed, Happening, LoadFailed, ModelLoaded, ModelUnloaded, Refused
from zhibei.server.ask import Ask
from zhibei.server.drain import Drain

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_NO_ROUTE = "other"
MAX_MODELS = 500
_REQUEST_S = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_QUEUE_S = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LOAD_S = (0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600)


@dataclass(slots=True)
class _Course:
    """What is known of a request that is under way. ``name`` is empty until a model is at hand."""

    name: str = ""
    has_left: bool = False


class Metrics:
    """Counts; a ``server.ask.Watcher``."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._courses: dict[str, _Course] = {}
        self._names: set[str] = set()
        self.registry = CollectorRegistry()
        self.registry.register(_Now(app))
        ProcessCollector(registry=self.registry)
        self._add_requests()
        self._add_generations()
        self._add_models()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"zhibei_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"zhibei_{name}_seconds", text, labels, buckets=buckets, registry=self.registry)

    def _add_requests(self) -> None:
        self._requests = self._counter("http_requests", "Requests that were answered.", "method", "route", "status")
        self._request_s = self._histogram("http_request", "From request to the end of the answer.", _REQUEST_S, "route")
        self._left = self._counter("client_disconnects", "Clients that left before their answer was complete.", "route")

    def _add_generations(self) -> None:
        self._generations = self._counter("generations", "Work done with models, by how it ended.", "model", "outcome")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, cached ones included.", "model")
        self._cached_tokens = self._counter("cached_prompt_tokens", "Tokens of prompts that were not computed again.", "model")
        self._cache_hits = self._counter("prompt_cache_hits", "Prompts of which a part was kept from before.", "model")
        self._generated_tokens = self._counter("generated_tokens", "Tokens that were generated.", "model")
        self._queue_s = self._histogram("queue", "From wanting a model to having it: queue and loading.", _QUEUE_S, "model")
        self._first_s = self._histogram("time_to_first_token", "From request to first token.", _FIRST_TOKEN_S, "model")
        self._token_s = self._histogram("time_per_token", "Between two tokens, on average over an answer.", _TOKEN_S, "model")

    def _add_models(self) -> None:
        self._loads = self._counter("model_loads", "Models that were loaded.", "model")
        self._load_s = self._histogram("model_load", "Loading a model.", _LOAD_S, "model")
        self._load_failures = self._counter("model_load_failures", "Loads that failed.", "model")
        self._unloads = self._counter(
            "model_unloads", "Models that were unloaded, by reason; evicted: to make room.", "model", "why"
        )
        self._crashes = self._counter("engine_crashes", "Engines that ended by themselves.", "model")
        self._refusals = self._counter("refusals", "Requests that the queue turned away.", "why")

    def page(self, hardware: Hardware | None = None) -> bytes:
        """All series as text; with ``hardware`` also the machine's memory."""
        data: bytes = generate_latest(self.registry)
        return data if hardware is None else data + generate_latest(_once(_memory(hardware)))

    def answered(self, ask: Ask, method: str, route: str, status: int, took_s: float) -> None:
        """A response is complete, or was cut."""
        course = self._courses.pop(ask.id, None) or _Course()
        route = route or _NO_ROUTE
        method = method if method in _METHODS else _NO_ROUTE
        self._requests.labels(method, route, str(status)).inc()
        self._request_s.labels(route).observe(took_s)
        if course.has_left or (status == 0 and not is_stopping(ask.drain)):
            self._left.labels(route).inc()

    def began(self, ask: Ask, model: str) -> None:
        """Nothing is known of the model yet."""
        self._courses.setdefault(ask.id, _Course())

    def admitted(self, ask: Ask, model: str, name: str, waited_s: float) -> None:
        """A model is at hand."""
        name = self._label(name)
        self._courses.setdefault(ask.id, _Course()).name = name
        self._queue_s.labels(name).observe(waited_s)

    def first_token(self, ask: Ask, model: str, after_s: float) -> None:
        """The first piece of an answer."""
        self._first_s.labels(self._name(ask)).observe(after_s)

    def finished(self, ask: Ask, model: str, end: Finished, took_s: float) -> None:
        """An answer is complete."""
        name, usage, timings = self._name(ask), end.usage, end.timings
        self._generations.labels(name, "finished").inc()
        self._prompt_tokens.labels(name).inc(usage.num_prompt_tokens)
        self._generated_tokens.labels(name).inc(usage.num_generated_tokens)
        if usage.num_cached_tokens:
            self._cached_tokens.labels(name).inc(usage.num_cached_tokens)
            self._cache_hits.labels(name).inc()
        if timings is not None and timings.num_generated_tokens > 1:
            self._token_s.labels(name).observe(timings.generation_s / timings.num_generated_tokens)

    def failed(self, ask: Ask, model: str, error: BaseException) -> None:
        """It ended otherwise."""
        course = self._courses.setdefault(ask.id, _Course())
        outcome = outcome_of(ask, error)
        course.has_left = course.has_left or outcome == "left"
        self._generations.labels(course.name, outcome).inc()

    def happened(self, happening: Happening) -> None:
        """Something in the pool."""
        match happening:
            case ModelLoaded(name, load_s):
                self._loads.labels(self._label(name)).inc()
                self._load_s.labels(self._label(name)).observe(load_s)
            case ModelUnloaded(name, why):
                self._unloads.labels(self._label(name), why).inc()
            case LoadFailed(name):
                self._load_failures.labels(self._label(name)).inc()
            case EngineCrashed(name):
                self._crashes.labels(self._label(name)).inc()
            case Refused(_, why):
                self._refusals.labels(why).inc()
            case _:
                pass

    def _label(self, name: str) -> str:
        """A model's name; that of one too many, which a day has brought into the store and out of it, is not kept."""
        if name not in self._names and len(self._names) >= MAX_MODELS:
            return "other"
        self._names.add(name)
        return name

    def _name(self, ask: Ask) -> str:
        course = self._courses.get(ask.id)
        return course.name if course is not None else ""


def outcome_of(ask: Ask, error: BaseException) -> str:
    """How work that did not finish ended: ``failed``, ``left`` (its client did) or ``cut`` (the server stops)."""
    if isinstance(error, Exception):
        return "failed"
    return "cut" if is_stopping(ask.drain) else "left"


def is_stopping(drain: Drain) -> bool:
    """Whether the server takes no more requests."""
    try:
        drain.check()
    except Busy:
        return True
    return False


class _Now(Collector):
    """What is read from the pool at the moment somebody asks."""

    def __init__(self, app: App) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        """The gauges."""
        pool = self._app.pool
        info = GaugeMetricFamily("zhibei_info", "The version that runs; always 1.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        yield GaugeMetricFamily("zhibei_queue_requests", "Requests that wait for a model.", value=pool.num_waiting)
        loaded = GaugeMetricFamily("zhibei_model_loaded", "1 for each model, by its state.", labels=("model", "state"))
        requests = GaugeMetricFamily("zhibei_model_requests", "Requests that a model answers now.", labels=("model",))
        slots = GaugeMetricFamily("zhibei_model_slots", "Requests that a model can answer at once.", labels=("model",))
        memory = GaugeMetricFamily("zhibei_model_memory_bytes", "Memory of a model.", labels=("model", "kind"))
        kernels = GaugeMetricFamily(
            "zhibei_model_kernels",
            "1 for each model with zhibei-kernels at hand, by their instruction set; none: they are not used.",
            labels=("model", "level"),
        )
        # One model may run more than once, loaded for different things.
        families = (loaded, requests, slots, memory, kernels)
        sums: dict[tuple[int, tuple[str, ...]], float] = {}
        for resident in pool.residents():
            name = resident.name
            rows: list[tuple[int, tuple[str, ...], float]] = [
                (0, (name, resident.state), 1),
                (1, (name,), resident.num_leases),
                (2, (name,), resident.num_slots),
                (3, (name, "planned"), resident.planned_bytes),
            ]
            if resident.measured_bytes is not None:
                rows.append((3, (name, "measured"), resident.measured_bytes))
            if resident.kernels is not None:
                rows.append((4, (name, resident.kernels.level or "none"), 1))
            for number, labels, value in rows:
                sums[number, labels] = sums.get((number, labels), 0) + value
        for (number, labels), value in sums.items():
            families[number].add_metric(labels, value)
        yield from families


class _Given(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = tuple(found)

    def collect(self) -> Iterable[Metric]:
        return self._found


def _once(found: Iterable[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Given(found))
    return registry


def _memory(hardware: Hardware) -> Iterator[Metric]:
    main = (("available", hardware.available_bytes), ("total", hardware.total_bytes))
    family = GaugeMetricFamily("zhibei_memory_bytes", "Memory of the machine.", labels=("device", "kind"))
    for kind, value in main:
        if value is not None:
            family.add_metric(("cpu", kind), value)
    for number, gpu in enumerate(hardware.gpus):
        for kind, value in (("available", gpu.free_bytes), ("total", gpu.total_bytes)):
            if value is not None:
                family.add_metric((f"gpu{number}", kind), value)
    yield family
