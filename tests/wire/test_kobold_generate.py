"""Kobold's routes, called as SillyTavern and Kobold Lite call them: the bodies they send, the fields they read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.serving import MODEL, Serving, stored_model
from zhibei.chat import CompletionRequest, TokenLogprob
from zhibei.engines.echo import EchoScript, Fail
from zhibei.errors import EngineDied
from zhibei.events import Finished, TextDelta, Timings, Usage
from zhibei.options import LoadOptions, Sampling
from zhibei.server.keys import KeyFile
from zhibei.settings import ServerSettings, Settings

CTX_SIZE = 256
END = Finished(("stop",), Usage(5, 2), Timings(5, 0.5, 2, 0.25), (None,))
# What SillyTavern sends for "KoboldAI Classic", with its own neutral values.
SILLYTAVERN: dict[str, Any] = {
    "use_story": False,
    "use_memory": False,
    "use_authors_note": False,
    "use_world_info": False,
    "max_context_length": 200,
    "max_length": 20,
    "rep_pen": 1.1,
    "rep_pen_range": 64,
    "rep_pen_slope": 0.7,
    "temperature": 0.5,
    "tfs": 1,
    "top_a": 0,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "typical": 1,
    "sampler_order": [6, 0, 1, 2, 3, 4, 5],
    "singleline": False,
    "use_default_badwordsids": False,
    "mirostat": 0,
    "mirostat_eta": 0.1,
    "mirostat_tau": 5,
    "grammar": "",
    "sampler_seed": 7,
    "stop_sequence": ["\nYou:", ""],
}


@contextmanager
def serving_one(home: Path, **server: Any) -> Iterator[Serving]:
    """A server whose model for those who name none is in its store."""
    own = ServerSettings(port=0, **server)
    settings = replace(
        Settings(), home=home, engine="echo", model=MODEL, load=LoadOptions(ctx_size=CTX_SIZE, parallel=4), server=own
    )
    made = Serving(settings, EchoScript(), 5.0)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def one(tiny_home: Path) -> Iterator[Serving]:
    with serving_one(tiny_home) as made:
        yield made


@pytest.fixture
def client(one: Serving) -> Iterator[httpx.Client]:
    one.script.requests.clear()
    with httpx.Client(base_url=one.url + "/api", timeout=20) as made:
        yield made


def events_of(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            assert lines[0] == "event: message"
            found.append(json.loads(lines[1].removeprefix("data: ")))
    return found


def test_generate_as_sillytavern_does(one: Serving, client: httpx.Client) -> None:
    one.answers((TextDelta("Hel"), TextDelta("lo"), END))
    answer = client.post("/v1/generate", json={"prompt": "You: Hi\nBot:", **SILLYTAVERN})
    assert answer.status_code == 200
    assert answer.json() == {
        "results": [{"text": "Hello", "finish_reason": "stop", "logprobs": None, "prompt_tokens": 5, "completion_tokens": 2}]
    }
    assert answer.headers["x-zhibei-ignored"] == "rep_pen_slope,sampler_order"
    (request,) = one.script.requests
    assert isinstance(request, CompletionRequest)
    assert request.prompt == "You: Hi\nBot:"
    assert request.limits.max_tokens == 20
    assert request.limits.stop == ("\nYou:",)
    assert not request.limits.ignore_eos
    assert request.sampling == Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        typical_p=1,
        repeat_penalty=1.1,
        repeat_last_n=64,
        seed=7,
        mirostat=0,
        mirostat_tau=5,
        mirostat_eta=0.1,
    )


def test_the_other_path_and_samplers_of_koboldcpp(one: Serving, client: httpx.Client) -> None:
    body = {
        "prompt": "b",
        "memory": "a ",
        "dry_multiplier": 0.8,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.1,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
        "logit_bias": {"3": -5},
        "use_default_badwordsids": True,
        "sampler_seed": -1,
        "top_k": -1,
        "singleline": True,
        "trim_stop": True,
        "banned_tokens": [],
        "images": [],
    }
    answer = client.post("/latest/generate", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["text"] == "a b"
    assert "x-zhibei-ignored" not in answer.headers
    request = one.script.requests[0]
    assert request.limits.ignore_eos
    assert request.limits.stop == ("\n",)
    sampling = request.sampling
    assert (sampling.seed, sampling.top_k, sampling.logit_bias) == (None, 0, ((3, -5),))
    assert (sampling.dry_multiplier, sampling.xtc_probability, sampling.frequency_penalty) == (0.8, 0.5, -0.25)


def test_stream_as_sillytavern_does(one: Serving, client: httpx.Client) -> None:
    one.answers((TextDelta("Hel"), TextDelta("lo"), replace(END, reasons=("length",))))
    answer = client.post("/extra/generate/stream", json={"prompt": "Hi", **SILLYTAVERN})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-zhibei-ignored"] == "rep_pen_slope,sampler_order"
    events = events_of(answer.text)
    assert [(event["token"], event["finish_reason"]) for event in events] == [("Hel", None), ("lo", None), ("", "length")]
    assert events[-1]["completion_tokens"] == 2


def test_a_stop_text_can_be_kept(one: Serving, client: httpx.Client) -> None:
    body = {"prompt": "one two. three", "stop_sequence": ["."]}
    assert client.post("/v1/generate", json=body).json()["results"][0]["text"] == "one two"
    assert client.post("/v1/generate", json=body | {"trim_stop": False}).json()["results"][0]["text"] == "one two."
    streamed = events_of(client.post("/extra/generate/stream", json=body | {"trim_stop": False}).text)
    assert "".join(event["token"] for event in streamed) == "one two."
    assert client.get("/extra/perf").json()["stop_reason"] == 2


def test_logprobs_with_the_answer_and_afterwards(one: Serving, client: httpx.Client) -> None:
    shown = TokenLogprob("Hi", -0.5, b"Hi", 3, (TokenLogprob("Hi", -0.5, b"Hi", 3), TokenLogprob("Ho", -1.5, b"Ho", 4)))
    one.answers((TextDelta("Hi", 0, (shown,)), END))
    found = client.post("/v1/generate", json={"prompt": "x", "logprobs": True, "genkey": "K1"}).json()["results"][0]["logprobs"]
    assert one.script.requests[0].top_logprobs == 5
    assert found["content"][0]["token"] == "Hi" and found["content"][0]["logprob"] == -0.5
    assert found["top_logprobs"] == [{"Hi": -0.5, "Ho": -1.5}]
    assert client.post("/extra/last_logprobs", json={"genkey": "K1"}).json()["logprobs"] == found
    assert client.get("/extra/last_logprobs").json()["logprobs"] == found
    assert client.post("/extra/last_logprobs", json={"genkey": "K2"}).json() == {"logprobs": None}


def test_a_prompt_is_cut_to_the_context_that_was_asked_for(one: Serving, client: httpx.Client) -> None:
    # The scripted engine has one token per character.
    body = {"prompt": "0123456789" * 6, "memory": "MEMORY", "max_context_length": 50, "max_length": 20}
    for path in ("/v1/generate", "/extra/generate/stream"):
        answer = client.post(path, json=body)
        assert answer.headers["x-zhibei-truncated"] == "tokens=36"
        sent = one.script.requests.pop().prompt
        assert isinstance(sent, tuple)
        assert "".join(map(chr, sent)) == "MEMORY" + ("0123456789" * 6)[-24:]
        last = answer.json()["results"][0] if path == "/v1/generate" else events_of(answer.text)[-1]
        assert last["truncated_tokens"] == 36


def test_a_prompt_is_cut_to_the_real_context_too(one: Serving, client: httpx.Client) -> None:
    answer = client.post("/v1/generate", json={"prompt": "x" * 300, "max_context_length": 8192, "max_length": 56})
    assert answer.headers["x-zhibei-truncated"] == f"tokens={300 - (CTX_SIZE - 56)}"
    assert len(one.script.requests[0].prompt) == CTX_SIZE - 56


def test_what_fits_is_not_touched(one: Serving, client: httpx.Client) -> None:
    answer = client.post("/v1/generate", json={"prompt": "é" * 40, "max_context_length": 50, "max_length": 10})
    assert "x-zhibei-truncated" not in answer.headers
    assert "truncated_tokens" not in answer.json()["results"][0]
    assert one.script.requests[0].prompt == "é" * 40


def test_what_cannot_fit_is_refused_with_numbers(client: httpx.Client) -> None:
    answer = client.post("/v1/generate", json={"prompt": "x", "max_context_length": 50, "max_length": 50})
    assert answer.status_code == 400
    assert "50" in answer.json()["detail"]["msg"]
    answer = client.post("/v1/generate", json={"prompt": "x", "memory": "m" * 60, "max_context_length": 50, "max_length": 10})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "61" in answer.json()["detail"]["msg"] and "50" in answer.json()["detail"]["msg"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grammar", 'root ::= "x"'),
        ("images", ["iVBORw0KGgo="]),
        ("n", 2),
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_p", 1.5),
        ("max_length", 0),
        ("max_context_length", -1),
        ("rep_pen", 0),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"1": 1000}),
        ("stop_sequence", ["x"] * 257),
        ("stop_sequence", ["x" * 1025]),
        ("genkey", "k" * 257),
        ("prompt", 5),
        ("sampler_seed", 2**70),
    ],
)
def test_what_is_out_of_range_is_refused_in_koboldcpps_words(client: httpx.Client, field: str, value: object) -> None:
    answer = client.post("/v1/generate", json={"prompt": "x"} | {field: value})
    assert answer.status_code == 400
    assert answer.json()["detail"]["type"] == "bad_input"
    assert answer.json()["detail"]["msg"] == answer.json()["error"]["message"]


def test_samplers_that_cannot_be_honoured_are_reported(client: httpx.Client) -> None:
    body = {"prompt": "x", "tfs": 0.9, "smoothing_factor": 0.3, "dry_sequence_breakers": ["\n"], "banned_tokens": ["as an AI"]}
    answer = client.post("/v1/generate", json=body)
    assert answer.status_code == 200
    assert set(answer.headers["x-zhibei-ignored"].split(",")) == set(body) - {"prompt"}


def test_a_failing_stream_says_so(one: Serving, client: httpx.Client) -> None:
    one.answers((TextDelta("Hel"), Fail(EngineDied("The engine died."))))
    text = client.post("/extra/generate/stream", json={"prompt": "x"}).text
    last = text.strip().split("\n\n")[-1].split("\n")
    assert last[0] == "event: error"
    assert json.loads(last[1].removeprefix("data: "))["detail"]["type"] == "server_error"
    one.answers((TextDelta("Hel"), Fail(EngineDied("The engine died."))))
    assert client.post("/v1/generate", json={"prompt": "x"}).status_code == 502
    assert client.post("/extra/generate/check").json()["results"][0]["text"] == ""


def _in_thread(call: Callable[[], httpx.Response]) -> tuple[threading.Thread, list[httpx.Response]]:
    found: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return thread, found


def _text(client: httpx.Client, genkey: str | None = None, **headers: str) -> str:
    body = {} if genkey is None else {"genkey": genkey}
    return str(client.post("/extra/generate/check", json=body, headers=headers).json()["results"][0]["text"])


def _until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
    raise AssertionError("it never came to be")


def test_two_generations_at_once_are_seen_and_ended_by_their_keys(one: Serving, client: httpx.Client) -> None:
    gates, before = [one.gate(), one.gate()], one.script.num_abandoned
    one.answers((TextDelta("first"), gates[0].step, TextDelta("!"), END), (TextDelta("second"), gates[1].step, END))
    first, first_answer = _in_thread(lambda: client.post("/v1/generate", json={"prompt": "x", "genkey": "K1"}))
    _until(lambda: _text(client, "K1") == "first")
    second, second_answer = _in_thread(lambda: client.post("/v1/generate", json={"prompt": "y", "genkey": "K2"}))
    _until(lambda: _text(client, "K2") == "second")
    assert _text(client, "K1") == "first"
    # Which of the two is meant is not said.
    assert client.post("/extra/abort").json() == {"success": "false", "done": "true"}
    assert client.post("/extra/abort", json={"genkey": "K2"}).json() == {"success": "true", "done": "true"}
    second.join(20)
    (result,) = second_answer[0].json()["results"]
    assert (result["text"], result["finish_reason"], result["completion_tokens"]) == ("second", "stop", None)
    one.until(lambda: one.script.num_abandoned == before + 1)
    gates[0].open()
    first.join(20)
    assert first_answer[0].json()["results"][0]["text"] == "first!"
    assert _text(client, "K1") == ""


def test_a_stream_is_ended_by_sillytaverns_abort(one: Serving, client: httpx.Client) -> None:
    gate, before = one.gate(), one.script.num_abandoned
    one.answers((TextDelta("Once"), gate.step, TextDelta("never"), END))
    with client.stream("POST", "/extra/generate/stream", json={"prompt": "x"}) as stream:
        chunks = stream.iter_text()
        text = next(chunks)
        # SillyTavern sends no body, and sometimes a content type all the same.
        assert client.post("/extra/abort", headers={"content-type": "application/json"}).json()["success"] == "true"
        text += "".join(chunks)
    assert [(event["token"], event["finish_reason"]) for event in events_of(text)] == [("Once", None), ("", "stop")]
    one.until(lambda: one.script.num_running == 0)
    assert one.script.num_abandoned == before + 1
    assert client.post("/extra/abort").json()["success"] == "false"


def test_an_abort_ends_what_still_waits_for_its_model(tiny_home: Path) -> None:
    with serving_one(tiny_home) as one, httpx.Client(base_url=one.url + "/api", timeout=20) as client:
        gate = one.gate()
        one.script.load = gate.event
        thread, answers = _in_thread(lambda: client.post("/v1/generate", json={"prompt": "x", "genkey": "K"}))
        _until(lambda: client.post("/extra/abort", json={"genkey": "K"}).json()["success"] == "true")
        thread.join(20)
        assert answers[0].json()["results"][0]["text"] == ""
        assert one.script.requests == []
        gate.open()


def test_a_client_that_leaves_leaves_nothing_behind(one: Serving, client: httpx.Client) -> None:
    gate = one.gate()
    one.answers((TextDelta("Once"), gate.step, END))
    with client.stream("POST", "/extra/generate/stream", json={"prompt": "x", "genkey": "K"}) as stream:
        chunks = stream.iter_text()
        assert "Once" in next(chunks)
        assert _text(client, "K") == "Once"
    one.until(lambda: one.script.num_running == 0)
    _until(lambda: _text(client, "K") == "")


def test_callers_do_not_see_or_end_each_others_generations(tmp_path: Path) -> None:
    home = tmp_path / "own"
    stored_model(home)
    with serving_one(home) as one, httpx.Client(base_url=one.url + "/api", timeout=20) as client:
        keys = [KeyFile(home).create(name, ("chat", "read"))[1] for name in ("ann", "bob")]
        ann, bob = ({"authorization": f"Bearer {key}"} for key in keys)
        gate = one.gate()
        one.answers((TextDelta("secret"), gate.step, END))
        thread, answers = _in_thread(
            lambda: client.post("/v1/generate", json={"prompt": "x", "genkey": "K", "logprobs": True}, headers=ann)
        )
        _until(lambda: _text(client, "K", **ann) == "secret")
        assert _text(client, "K", **bob) == ""
        assert client.post("/extra/abort", headers=bob).json()["success"] == "false"
        assert client.post("/extra/abort", json={"genkey": "K"}, headers=bob).json()["success"] == "false"
        gate.open()
        thread.join(20)
        assert answers[0].json()["results"][0]["text"] == "secret"
        assert client.get("/extra/perf", headers=ann).json()["total_gens"] == 1
        assert client.get("/extra/perf", headers=bob).json()["total_gens"] == 0
        refused = client.post("/v1/generate", json={"prompt": "x"})
        assert refused.status_code == 401
        assert refused.json()["detail"] | {"msg": ""} == {"error": "Unauthorized", "msg": "", "type": "unauthorized"}


def test_a_full_queue_is_said_as_sillytavern_expects(tiny_home: Path) -> None:
    with serving_one(tiny_home, max_queue=1) as one, httpx.Client(base_url=one.url + "/api", timeout=20) as client:
        gate = one.gate()
        one.script.load = gate.event
        thread, answers = _in_thread(lambda: client.post("/v1/generate", json={"prompt": "x"}))
        assert one.app is not None
        pool = one.app.pool
        one.until(lambda: pool.num_waiting == 1)
        assert client.get("/extra/perf").json()["queue"] == 1
        refused = client.post("/v1/generate", json={"prompt": "y"})
        assert refused.status_code == 503
        assert refused.json()["detail"]["type"] == "service_unavailable"
        assert int(refused.headers["retry-after"]) > 0
        gate.open()
        thread.join(20)
        assert answers[0].json()["results"][0]["text"] == "x"
