"""OpenAI's routes as front ends of KoboldCpp and llama.cpp's server use them: they name no model."""

from __future__ import annotations

import httpx
import pytest

from support.serving import MODEL, Serving

CHAT = {"messages": [{"role": "user", "content": "one two"}]}


@pytest.mark.parametrize(("path", "body"), (("/v1/completions", {"prompt": "one two"}), ("/v1/chat/completions", CHAT)))
def test_without_a_name_the_model_of_this_machine_answers_under_its_own(
    server: Serving, path: str, body: dict[str, object]
) -> None:
    for unnamed in (body, {**body, "model": ""}):
        reply = httpx.post(server.url + path, json=unnamed, timeout=30)
        assert (reply.status_code, reply.json()["model"]) == (200, MODEL)
        streamed = httpx.post(server.url + path, json={**unnamed, "stream": True}, timeout=30)
        assert streamed.status_code == 200 and f'"model":"{MODEL}"' in streamed.text


def test_a_name_of_another_type_is_refused(server: Serving) -> None:
    reply = httpx.post(f"{server.url}/v1/completions", json={"prompt": "one", "model": 5})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")
