"""Requests made from the page that describes the API, right and wrong ones: an answer or a refusal, never a failure (H-14)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from support.serving import MODEL, Serving, serving, stored_model
from zhibei.settings import DEFAULT_MODEL

NUM_EXAMPLES = 3
# Said in words: not built in, busy, no answer in time, no room.
DOCUMENTED = (501, 502, 503, 504, 507, 529)
# They reach out of this machine, or end only with it.
LEFT_OUT = ("/pull", "/update", "/push")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home: Path = tmp_path_factory.mktemp("schema") / "home"
    stored_model(home)
    stored_model(home, DEFAULT_MODEL)
    with serving(home) as made:
        yield made


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_requests_made_from_the_page(server: Serving, mode: GenerationMode) -> None:
    page: dict[str, Any] = httpx.get(server.url + "/openapi.json").json()
    schema = schemathesis.openapi.from_dict(page)
    found: set[tuple[str, str, int, str]] = set()
    num_requests = 0
    with httpx.Client(base_url=server.url, timeout=8) as client:

        def ask(case: Any) -> None:
            nonlocal num_requests
            num_requests += 1
            made = case.as_transport_kwargs(base_url=server.url)
            kwargs = {name: made[name] for name in ("params", "json", "headers") if made.get(name) is not None}
            if isinstance(made.get("data"), (bytes, str)):
                kwargs["content"] = made["data"]
            request = client.build_request(made["method"], made["url"], **kwargs)
            try:
                reply = client.send(request, stream=True)
            except httpx.TimeoutException:
                found.add((case.method, case.path, 0, "no answer"))
                return
            try:
                # Some answers have no end; those that fail have.
                text = "" if reply.status_code < 500 else reply.read().decode()
            finally:
                reply.close()
            if reply.status_code >= 500 and reply.status_code not in DOCUMENTED:
                found.add((case.method, case.path, reply.status_code, text[:200]))

        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.method.upper() == "GET" or any(part in operation.path for part in LEFT_OUT):
                continue
            strategy = operation.as_strategy(generation_mode=mode)
            wrapped = settings(
                max_examples=NUM_EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )(given(case=strategy)(ask))
            # Where nothing is asked for, nothing can be asked for wrongly.
            with contextlib.suppress(Unsatisfiable):
                wrapped()
        assert found == set()
        assert num_requests > 50
        body = {"model": MODEL, "messages": [{"role": "user", "content": "still here"}]}
        # What was asked may have removed the model, which is an answer too.
        assert client.post("/v1/chat/completions", json=body).status_code in (200, 404)
    assert server.script.num_running == 0
