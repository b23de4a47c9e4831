"""Requests as OpenTelemetry spans: request → waiting and loading → prefill → generation. Owns their names and attributes.

Spans are made when a request is over, from the moments that were noted on its way, so that an answer under way costs
nothing. They hold names and counts, never a prompt or an answer. The packages are an extra, and loaded only if asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zhibei import __version__
from zhibei.events import Finished
from zhibei.server.ask import Ask
from zhibei.server.metrics import outcome_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

log = logging.getLogger("zhibei.server")
_TRACES_PATH = "/v1/traces"
_OPERATIONS = (("embed", "embeddings"), ("rerank", "rerank"), ("chat", "chat"), ("messages", "chat"), ("responses", "chat"))
_MAX_WORK = 64


@dataclass(slots=True)
class _Work:
    """One thing asked of a model; times in nanoseconds since the epoch, None: not reached."""

    asked: str
    began_ns: int
    name: str | None = None
    admitted_ns: int | None = None
    first_token_ns: int | None = None
    ended_ns: int | None = None
    end: Finished | None = None
    outcome: str | None = None
    error: str | None = None


@dataclass(slots=True)
class _Course:
    works: list[_Work] = field(default_factory=list)


class Tracing:
    """Makes spans; a ``server.ask.Watcher``."""

    def __init__(self, provider: TracerProvider, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("zhibei", __version__)
        self._now_ns = now_ns
        self._courses: dict[str, _Course] = {}

    def close(self) -> None:
        """Send what is left; may take some seconds."""
        self._provider.shutdown()

    def began(self, ask: Ask, model: str) -> None:
        """Work on a model is wanted."""
        works = self._courses.setdefault(ask.id, _Course()).works
        if len(works) < _MAX_WORK:
            works.append(_Work(model, self._now_ns()))

    def admitted(self, ask: Ask, model: str, name: str, waited_s: float) -> None:
        """The model is at hand."""
        if (work := self._work(ask)) is not None:
            work.name, work.admitted_ns = name, self._now_ns()

    def first_token(self, ask: Ask, model: str, after_s: float) -> None:
        """The first piece of an answer."""
        if (work := self._work(ask)) is not None:
            work.first_token_ns = self._now_ns()

    def finished(self, ask: Ask, model: str, end: Finished, took_s: float) -> None:
        """An answer is complete."""
        if (work := self._work(ask)) is not None:
            work.end, work.ended_ns = end, self._now_ns()

    def failed(self, ask: Ask, model: str, error: BaseException) -> None:
        """It ended otherwise."""
        if (work := self._work(ask)) is not None:
            work.outcome, work.ended_ns = outcome_of(ask, error), self._now_ns()
            work.error = type(error).__name__ if isinstance(error, Exception) else None

    def answered(self, ask: Ask, method: str, route: str, status: int, took_s: float) -> None:
        """The end of a request: its spans."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        course = self._courses.pop(ask.id, None) or _Course()
        ended_ns = self._now_ns()
        attributes: dict[str, Any] = {"http.request.method": method[:16], "zhibei.request.id": ask.id}
        if route:
            attributes["http.route"] = route
        if status:
            attributes["http.response.status_code"] = status
        began_ns = ended_ns - int(took_s * 1e9)
        name = f"{method[:16]} {route}".strip()
        span = self._tracer.start_span(name, kind=SpanKind.SERVER, attributes=attributes, start_time=began_ns)
        if status >= 500 or any(work.outcome == "failed" for work in course.works):
            span.set_status(Status(StatusCode.ERROR))
        context = set_span_in_context(span)
        for work in course.works:
            self._generation(work, _operation(route), context, ended_ns)
        span.end(ended_ns)

    def _generation(self, work: _Work, operation: str, context: Any, ended_ns: int) -> None:
        """One span for the work on a model, and one for each of its stretches."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        title = f"{operation} {work.name}" if work.name else operation
        span = self._tracer.start_span(
            title, context, SpanKind.INTERNAL, attributes=_attributes(work, operation), start_time=work.began_ns
        )
        if work.outcome == "failed":
            span.set_status(Status(StatusCode.ERROR))
        inside, ended_ns = set_span_in_context(span), work.ended_ns or ended_ns
        stretches = (
            ("queue and load", work.began_ns, work.admitted_ns),
            ("prefill", work.admitted_ns, work.first_token_ns),
            ("generation", work.first_token_ns, ended_ns),
        )
        for name, from_ns, to_ns in stretches:
            if from_ns is not None:
                self._tracer.start_span(name, inside, start_time=from_ns).end(to_ns if to_ns is not None else ended_ns)
        span.end(ended_ns)

    def _work(self, ask: Ask) -> _Work | None:
        course = self._courses.get(ask.id)
        return course.works[-1] if course is not None and course.works else None


def tracing_to(endpoint: str) -> Tracing | None:
    """Spans that go to a collector which speaks OTLP over HTTP; None, and a warning, where the packages are missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        log.warning("Traces are wanted, but OpenTelemetry is not installed. Install it: pip install 'zhibei[otel]'")
        return None
    return tracing_with(OTLPSpanExporter(endpoint.rstrip("/") + _TRACES_PATH))


def tracing_with(exporter: SpanExporter) -> Tracing:
    """Spans that go to an exporter, in batches."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource({"service.name": "zhibei", "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def _operation(route: str) -> str:
    return next((name for part, name in _OPERATIONS if part in route), "text_completion")


def _attributes(work: _Work, operation: str) -> dict[str, Any]:
    found: dict[str, Any] = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "zhibei"}
    # What the client wrote is only kept once it has turned out to be a model.
    if work.name is not None:
        found |= {"gen_ai.request.model": work.asked[:200], "gen_ai.response.model": work.name}
    if work.first_token_ns is not None:
        found["gen_ai.response.time_to_first_chunk"] = (work.first_token_ns - work.began_ns) / 1e9
    if work.end is not None:
        usage = work.end.usage
        found["gen_ai.response.finish_reasons"] = work.end.reasons
        found["gen_ai.usage.input_tokens"] = usage.num_prompt_tokens
        found["gen_ai.usage.output_tokens"] = usage.num_generated_tokens
        found["gen_ai.usage.cache_read.input_tokens"] = usage.num_cached_tokens
    if work.error is not None:
        found["error.type"] = work.error
    if work.outcome is not None:
        found["zhibei.outcome"] = work.outcome
    return found
