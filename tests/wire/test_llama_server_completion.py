"""llama-server's own completions and the routes around them, with the scripted engine: shapes, ranges, words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.serving import MODEL, Serving
from zhibei.chat import CompletionRequest, TokenLogprob
from zhibei.engines.echo import EchoScript, Fail
from zhibei.errors import ContextTooLong, EngineDied
from zhibei.events import Finished, TextDelta, Timings, Usage
from zhibei.options import LoadOptions
from zhibei.settings import ServerSettings, Settings

CTX_SIZE = 256
END = Finished(("stop",), Usage(5, 2, 1), Timings(4, 0.5, 2, 0.25, 1), (None,))
# What SillyTavern sends to llama.cpp, with its own neutral values.
SILLYTAVERN: dict[str, Any] = {
    "max_new_tokens": 20,
    "max_tokens": 20,
    "n_predict": 20,
    "temperature": 0.7,
    "top_p": 0.9,
    "typical_p": 1,
    "typical": 1,
    "seed": -1,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_k": 40,
    "min_keep": 0,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "stop": ["\nYou:"],
    "mirostat": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "ignore_eos": False,
    "n_probs": 0,
    "cache_prompt": True,
    "samplers": ["top_k", "temperature"],
    "dry_sequence_breakers": ["\n"],
    "logit_bias": [[7, -1.5]],
    "grammar": "",
}
# What an editor's plugin sends to /infill.
EDITOR: dict[str, Any] = {
    "input_prefix": "def add(a, b):\n",
    "input_suffix": "\n    return c\n",
    "input_extra": [{"filename": "a.py", "text": "x = 1"}],
    "prompt": "    c =",
    "n_predict": 8,
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_predict_ms": 500,
    "response_fields": ["content", "timings/prompt_n", "generation_settings/n_predict", "nothing/here", "truncated"],
}


@pytest.fixture(scope="module")
def one(tiny_home: Path) -> Iterator[Serving]:
    load = LoadOptions(ctx_size=CTX_SIZE, parallel=2)
    settings = replace(Settings(), home=tiny_home, engine="echo", model=MODEL, load=load, server=ServerSettings(port=0))
    made = Serving(settings, EchoScript(), 5.0)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def client(one: Serving) -> Iterator[httpx.Client]:
    one.script.requests.clear()
    with httpx.Client(base_url=one.url, timeout=20) as made:
        yield made
    assert not one.script.answers


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: ")]


def test_completion_as_sillytavern_does(one: Serving, client: httpx.Client) -> None:
    one.answers((TextDelta("Hel"), TextDelta("lo\n"), END))
    answer = client.post("/completion", json={"prompt": "You: Hi\nBot:", **SILLYTAVERN})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["content"] == "Hello\n"
    assert (found["stop"], found["stop_type"], found["stopping_word"], found["truncated"]) == (True, "eos", "", False)
    assert (found["tokens_evaluated"], found["tokens_predicted"], found["tokens_cached"]) == (5, 2, 6)
    assert (found["model"], found["prompt"], found["index"], found["has_new_line"]) == (MODEL, "You: Hi\nBot:", 0, True)
    assert found["timings"]["cache_n"] == 1 and found["timings"]["prompt_per_second"] == 8.0
    settings = found["generation_settings"]
    assert (settings["temperature"], settings["n_predict"], settings["stop"]) == (0.7, 20, ["\nYou:"])
    assert "completion_probabilities" not in found
    reported = {"max_new_tokens", "typical", "repetition_penalty", "samplers", "dry_sequence_breakers"}
    assert set(answer.headers["x-zhibei-ignored"].split(",")) == reported
    (request,) = one.script.requests
    assert isinstance(request, CompletionRequest)
    assert (request.sampling.repeat_penalty, request.sampling.logit_bias, request.sampling.seed) == (1.1, ((7, -1.5),), None)
    assert (request.limits.max_tokens, request.limits.stop, request.top_logprobs) == (20, ("\nYou:",), None)


def test_streamed_as_sillytavern_does(one: Serving, client: httpx.Client) -> None:
    one.answers((TextDelta("Hel"), TextDelta("lo"), replace(END, reasons=("length",))))
    answer = client.post("/completion", json={"prompt": "Hi", "stream": True, **SILLYTAVERN})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [(event["content"], event["stop"]) for event in events] == [("Hel", False), ("lo", False), ("", True)]
    assert events[-1]["stop_type"] == "limit"
    assert events[-1]["generation_settings"]["stream"] is True
    assert "[DONE]" not in answer.text


def test_the_stop_text_that_ended_it_is_told(client: httpx.Client) -> None:
    found = client.post("/completions", json={"prompt": "one two. three", "stop": [".", ""]}).json()
    assert (found["content"], found["stop_type"], found["stopping_word"]) == ("one two", "word", ".")
    found = client.post("/completions", json={"prompt": "one two", "stop": "."}).json()
    assert (found["stop_type"], found["stopping_word"]) == ("eos", "")


def test_probabilities_and_tokens(one: Serving, client: httpx.Client) -> None:
    tops = (TokenLogprob("Hi", -0.5, b"Hi", 3), TokenLogprob("Ho", -1.5, b"Ho", 4))
    steps = (TextDelta("Hi", 0, (TokenLogprob("Hi", -0.5, b"Hi", 3, tops),)), END)
    one.answers(steps, steps, steps)
    expected = [
        {
            "id": 3,
            "token": "Hi",
            "bytes": [72, 105],
            "logprob": -0.5,
            "top_logprobs": [
                {"id": 3, "token": "Hi", "bytes": [72, 105], "logprob": -0.5},
                {"id": 4, "token": "Ho", "bytes": [72, 111], "logprob": -1.5},
            ],
        }
    ]
    found = client.post("/completion", json={"prompt": "x", "n_probs": 2, "return_tokens": True}).json()
    assert found["completion_probabilities"] == expected and found["tokens"] == [3]
    streamed = events_of(client.post("/completion", json={"prompt": "x", "n_probs": 2, "stream": True}).text)
    assert streamed[0]["completion_probabilities"] == expected and streamed[0]["tokens"] == []
    found = client.post("/completion", json={"prompt": "x", "return_tokens": True}).json()
    assert found["tokens"] == [3] and "completion_probabilities" not in found
    assert [request.top_logprobs for request in one.script.requests] == [2, 2, 0]


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("ab", "ab"),
        ([97, 98], (97, 98)),
        (["ab", 99, "d"], (97, 98, 99, 100)),
        ([99, "d"], (99, 100)),
        (["ab"], "ab"),
        ([[97, "b"]], (97, 98)),
    ],
)
def test_every_form_of_a_prompt(one: Serving, client: httpx.Client, prompt: object, sent: object) -> None:
    found = client.post("/completion", json={"prompt": prompt}).json()
    assert one.script.requests[0].prompt == sent
    assert found["prompt"] == (sent if isinstance(sent, str) else "".join(map(chr, sent)))  # type: ignore[arg-type]


def test_several_prompts_are_answered_in_order(client: httpx.Client) -> None:
    found = client.post("/completion", json={"prompt": ["one", "two", [97, 98]]}).json()
    assert [(each["index"], each["content"], each["prompt"]) for each in found] == [
        (0, "one", "one"),
        (1, "two", "two"),
        (2, "ab", "ab"),
    ]
    events = events_of(client.post("/completion", json={"prompt": ["one", "two"], "stream": True}).text)
    assert [(event["index"], event["content"], event["stop"]) for event in events] == [
        (0, "one", False),
        (0, "", True),
        (1, "two", False),
        (1, "", True),
    ]


def test_nothing_to_be_said_reads_the_prompt_alone(one: Serving, client: httpx.Client) -> None:
    found = client.post("/completion", json={"prompt": "one two", "n_predict": 0}).json()
    assert (found["content"], found["tokens_predicted"], found["stop_type"]) == ("", 0, "limit")
    assert found["tokens_evaluated"] == 2
    assert one.script.requests[0].limits.max_tokens == 1
    events = events_of(client.post("/completion", json={"prompt": "one two", "n_predict": 0, "stream": True}).text)
    assert [event["content"] for event in events] == [""]


def test_biases_in_all_forms(one: Serving, client: httpx.Client) -> None:
    for bias in ([[65, 2], ["BC", -3.5], [68, False]], {"65": 2, "BC": -3.5, "68": False}):
        assert client.post("/completion", json={"prompt": "x", "logit_bias": bias}).status_code == 200
        sent = dict(one.script.requests.pop().sampling.logit_bias)
        assert sent == {65: 2.0, 66: -3.5, 67: -3.5, 68: -1e9}


def test_infill_as_an_editor_does(one: Serving, client: httpx.Client) -> None:
    one.answers((TextDelta(" a + b"), END))
    answer = client.post("/infill", json=EDITOR)
    assert answer.json() == {
        "content": " a + b",
        "timings/prompt_n": 4,
        "generation_settings/n_predict": 8,
        "truncated": False,
    }
    assert set(answer.headers["x-zhibei-ignored"].split(",")) == {"input_extra", "n_indent", "t_max_predict_ms", "samplers"}
    request = one.script.requests[0]
    assert isinstance(request, CompletionRequest)
    assert (request.prompt, request.suffix) == ("def add(a, b):\n    c =", "\n    return c\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grammar", 'root ::= "x"'),
        ("lora", [{"id": 0, "scale": 1}]),
        ("n_cmpl", 2),
        ("post_sampling_probs", True),
        ("temperature", "hot"),
        ("temperature", -0.1),
        ("top_p", 2),
        ("n_predict", -2),
        ("n_probs", 101),
        ("n_probs", -1),
        ("seed", 2**70),
        ("stop", ["x"] * 257),
        ("stop", ["x" * 1025]),
        ("logit_bias", [[1]]),
        ("logit_bias", [["", 1]]),
        ("logit_bias", [[-1, 1]]),
        ("logit_bias", [[True, 1]]),
        ("logit_bias", [[1, True]]),
        ("logit_bias", [[1, 1e300]]),
        ("logit_bias", [[1, 1]] * 1025),
        ("json_schema", {"type": "nonsense"}),
        ("prompt", []),
        ("prompt", ["a", []]),
        ("prompt", [[-1]]),
        ("prompt", {"prompt_string": "x", "multimodal_data": ["aGk="]}),
        ("prompt", [{"prompt_string": "x"}]),
        ("prompt", ["x"] * 129),
        ("response_fields", ["content"] * 129),
    ],
)
def test_what_is_out_of_range_is_refused_in_llama_servers_words(client: httpx.Client, field: str, value: object) -> None:
    answer = client.post("/completion", json={"prompt": "x"} | {field: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert error["message"]


def test_a_prompt_that_is_too_long_comes_with_both_numbers(one: Serving, client: httpx.Client) -> None:
    one.answers((Fail(ContextTooLong(300, CTX_SIZE)),))
    error = client.post("/completion", json={"prompt": "x"}).json()["error"]
    assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == ("exceed_context_size_error", 300, CTX_SIZE)


def test_a_failing_stream_says_so(one: Serving, client: httpx.Client) -> None:
    one.answers((TextDelta("Hel"), Fail(EngineDied("The engine died."))))
    events = events_of(client.post("/completion", json={"prompt": "x", "stream": True}).text)
    assert events[0]["content"] == "Hel"
    assert events[1]["error"]["type"] == "server_error"


def test_a_client_that_leaves_ends_its_generation(one: Serving, client: httpx.Client) -> None:
    gate, before = one.gate(), one.script.num_abandoned
    one.answers((TextDelta("Once"), gate.step, END))
    with client.stream("POST", "/completion", json={"prompt": "x", "stream": True}) as stream:
        next(stream.iter_text())
    one.until(lambda: one.script.num_running == 0)
    assert one.script.num_abandoned == before + 1


def test_a_model_that_is_not_there(client: httpx.Client) -> None:
    answer = client.post("/completion", json={"prompt": "x", "model": "nothing:here"})
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


def test_apply_template(client: httpx.Client) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert client.post("/apply-template", json={"messages": chat}).json() == {"prompt": "system: Be brief.\nuser: Hi\n"}
    for wrong in (
        [],
        [{"role": "robot", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        [{"role": "user", "content": "x", "tool_calls": [{}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{}]}],
    ):
        assert client.post("/apply-template", json={"messages": wrong}).status_code == 400
    assert client.post("/apply-template", json={"messages": chat, "tools": [{"type": "function"}]}).status_code == 400


def test_embedding(client: httpx.Client) -> None:
    for body in ({"content": ["one", "two"]}, {"input": ["one", "two"]}):
        found = client.post("/embedding", json=body).json()
        assert [each["index"] for each in found] == [0, 1]
        assert all(len(each["embedding"]) == 1 and len(each["embedding"][0]) == 8 for each in found)
    for body in ({}, {"content": []}, {"content": [""]}, {"content": 5}):
        assert client.post("/embeddings", json=body).status_code == 400
