"""Spans of requests: through a real collector's protocol, and into memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.serving import MODEL, Serving, serving
from zhibei.engines.echo import Fail
from zhibei.errors import EngineDied
from zhibei.events import Finished, TextDelta, Usage
from zhibei.server import seen, tracing

CHAT = {"model": "TINY", "messages": [{"role": "user", "content": "my private words"}]}


@pytest.fixture
def traced(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Serving, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(seen, "tracing_to", lambda endpoint: tracing.tracing_with(exporter))
    with serving(tiny_home, otlp_endpoint="http://127.0.0.1:1") as server:
        yield server, exporter


def spans_of(server: Serving, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """What was sent, once the server has ended."""
    server.stop()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_is_a_tree_of_spans(traced: tuple[Serving, InMemorySpanExporter]) -> None:
    server, exporter = traced
    server.answers((TextDelta("x"), Finished(("stop",), Usage(8, 4, 3))))
    reply = httpx.post(server.url + "/v1/chat/completions", json=CHAT)
    spans = spans_of(server, exporter)
    request, work = spans["POST /v1/chat/completions"], spans[f"chat {MODEL}"]
    assert request.parent is None and request.attributes is not None and work.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["zhibei.request.id"] == reply.headers["x-request-id"]
    assert work.parent is not None and work.parent.span_id == request.context.span_id
    assert work.attributes["gen_ai.operation.name"] == "chat" and work.attributes["gen_ai.response.model"] == MODEL
    assert work.attributes["gen_ai.usage.input_tokens"] == 8 and work.attributes["gen_ai.usage.output_tokens"] == 4
    assert work.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    stretches = [spans[name] for name in ("queue and load", "prefill", "generation")]
    assert all(span.parent is not None and span.parent.span_id == work.context.span_id for span in stretches)
    moments = [moment for span in stretches for moment in (span.start_time, span.end_time)]
    assert moments == sorted(moments, key=lambda moment: moment or 0)
    assert work.start_time is not None and request.start_time is not None and request.start_time <= work.start_time
    assert "private" not in "".join(str(span.to_json()) for span in spans.values())


def test_what_fails_is_marked(traced: tuple[Serving, InMemorySpanExporter]) -> None:
    server, exporter = traced
    server.answers((TextDelta("x"), Fail(EngineDied("It died of my private words."))))
    httpx.post(server.url + "/v1/chat/completions", json=CHAT)
    httpx.post(server.url + "/v1/chat/completions", json={**CHAT, "model": "unknown-model"})
    spans = spans_of(server, exporter)
    work = spans[f"chat {MODEL}"]
    assert work.attributes is not None and work.attributes["error.type"] == "EngineDied" and not work.status.is_ok
    assert "gen_ai.request.model" not in (spans["chat"].attributes or {})
    assert "private" not in "".join(str(span.to_json()) for span in spans.values())


def test_a_collector_gets_them_over_http(tiny_home: Path) -> None:
    received: list[tuple[str, ExportTraceServiceRequest]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return None

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            with serving(tiny_home, otlp_endpoint=f"http://127.0.0.1:{collector.server_port}/") as server:
                assert httpx.post(server.url + "/v1/chat/completions", json=CHAT).status_code == 200
        finally:
            collector.shutdown()
            thread.join()
    (path, sent), *_ = received
    names = {span.name for each in sent.resource_spans for scope in each.scope_spans for span in scope.spans}
    assert path == "/v1/traces" and {"POST /v1/chat/completions", f"chat {MODEL}"} <= names
    (resource, *_) = sent.resource_spans
    assert ("service.name", "zhibei") in {(each.key, each.value.string_value) for each in resource.resource.attributes}


def test_without_the_packages_the_server_runs_and_says_how_to_get_them(
    tiny_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with serving(tiny_home, otlp_endpoint="http://127.0.0.1:1") as server:
        assert httpx.post(server.url + "/v1/chat/completions", json=CHAT).status_code == 200
    assert "pip install 'zhibei[otel]'" in caplog.text
