"""The same requests to llama.cpp's own server and to ours, with the same model: the same tokens, texts and keys."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.serving import Serving
from zhibei.options import LoadOptions
from zhibei.settings import ServerSettings, Settings

pytest.importorskip("xllamacpp")

MODEL = "smollm2:135m"
CTX_SIZE = 512
NATIVE = f"""
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.port, params.warmup = {CTX_SIZE}, 1, 0, False
params.cpuparams.n_threads = 2
params.use_jinja, params.endpoint_props, params.endpoint_slots = True, True, True
server = xllamacpp.Server(params)
print("\\n" + server.listening_address, flush=True)
sys.stdin.read()
"""
GREEDY: dict[str, Any] = {"temperature": 0, "seed": 1, "n_predict": 5}
TEXTS = ("The capital of France is", "def fibonacci(n):", "你好，世界", "")


@pytest.fixture(scope="module")
def ours(smollm2_home: Path) -> Iterator[httpx.Client]:
    # The same arithmetic on both sides: what is compared is what is asked and told.
    load = LoadOptions(ctx_size=CTX_SIZE, parallel=1, threads=2, kernels=False)
    settings = replace(Settings(), home=smollm2_home, engine="llama.cpp", load=load, server=ServerSettings(port=0))
    made = Serving(settings, None, 5.0)
    made.start()
    try:
        with httpx.Client(base_url=made.url, timeout=120) as client:
            yield client
    finally:
        made.stop()


@pytest.fixture(scope="module")
def native(smollm2_path: Path) -> Iterator[httpx.Client]:
    command = [sys.executable, "-c", NATIVE, str(smollm2_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        address = next(line.strip() for line in child.stdout if line.startswith("http"))
        try:
            with httpx.Client(base_url=address, timeout=120) as client:
                yield client
        finally:
            child.stdin.close()
            child.kill()


def _both(ours: httpx.Client, native: httpx.Client, path: str, body: dict[str, Any]) -> tuple[Any, Any]:
    answers = [client.post(path, json=body) for client in (ours, native)]
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    mine, theirs = (answer.json() for answer in answers)
    return mine, theirs


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [False, True])
def test_tokens_and_back(ours: httpx.Client, native: httpx.Client, text: str, special: bool) -> None:
    body = {"content": text + "<|im_end|>", "add_special": special, "parse_special": special}
    mine, theirs = _both(ours, native, "/tokenize", body)
    assert mine["tokens"] == theirs["tokens"]
    mine, theirs = _both(ours, native, "/detokenize", {"tokens": mine["tokens"]})
    assert mine["content"] == theirs["content"]


def test_pieces(ours: httpx.Client, native: httpx.Client) -> None:
    mine, theirs = _both(ours, native, "/tokenize", {"content": "Hello wörld 🦙", "with_pieces": True})
    # A token that is a part of a character has no text: llama.cpp shows its bytes.
    whole = [{**item, "piece": item["piece"] if isinstance(item["piece"], str) else None} for item in theirs["tokens"]]
    assert mine["tokens"] == whole


def test_the_template(ours: httpx.Client, native: httpx.Client) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "你好"}]
    mine, theirs = _both(ours, native, "/apply-template", {"messages": chat})
    assert mine == theirs


@pytest.mark.parametrize("prompt", [TEXTS[0], TEXTS[2], [504, " capital of", 4649]])
def test_greedy_completions(ours: httpx.Client, native: httpx.Client, prompt: Any) -> None:
    mine, theirs = _both(ours, native, "/completion", GREEDY | {"prompt": prompt, "n_probs": 2, "return_tokens": True})
    # Half a character at the very end is not shown here.
    assert mine["content"] == theirs["content"].rstrip("\ufffd")
    same = (
        "prompt",
        "stop",
        "stop_type",
        "stopping_word",
        "tokens_predicted",
        "tokens_evaluated",
        "truncated",
    )
    assert {key: mine[key] for key in same} == {key: theirs[key] for key in same}
    assert mine["has_new_line"] == theirs["has_new_line"]
    assert set(theirs) == set(mine)
    assert set(mine["timings"]) == set(theirs["timings"])
    assert set(mine["generation_settings"]) <= set(theirs["generation_settings"])
    if mine["content"].isascii():
        # Of a character that takes several tokens the engine tells the last one alone.
        assert mine["tokens"] == theirs["tokens"]
        shown, known = (
            [(item["id"], [top["id"] for top in item["top_logprobs"]]) for item in found["completion_probabilities"]]
            for found in (mine, theirs)
        )
        assert shown == known


def test_a_stop_text_ends_both(ours: httpx.Client, native: httpx.Client) -> None:
    mine, theirs = _both(ours, native, "/completion", GREEDY | {"prompt": TEXTS[0], "stop": ["."]})
    assert (mine["content"], mine["stop_type"], mine["stopping_word"]) == (
        theirs["content"],
        theirs["stop_type"],
        theirs["stopping_word"],
    )
    assert mine["stopping_word"] == "."


def test_streamed_texts(ours: httpx.Client, native: httpx.Client) -> None:
    body = GREEDY | {"prompt": TEXTS[1], "stream": True}
    found = []
    for client in (ours, native):
        lines = [line for line in client.post("/completion", json=body).text.split("\n") if line.startswith("data: ")]
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
        found.append("".join(event["content"] for event in events))
    assert found[0] == found[1]


def test_biases(ours: httpx.Client, native: httpx.Client) -> None:
    for bias in ([[7042, False]], [[" Paris", -100]]):
        mine, theirs = _both(ours, native, "/completion", GREEDY | {"prompt": TEXTS[0], "logit_bias": bias})
        assert mine["content"] == theirs["content"]
        assert "Paris" not in mine["content"][:7]


def test_a_schema(ours: httpx.Client, native: httpx.Client) -> None:
    body = GREEDY | {"prompt": "The colour of the sky, in quotes: ", "json_schema": {"enum": ["red", "blue"]}}
    mine, theirs = _both(ours, native, "/completion", body)
    assert mine["content"] == theirs["content"]
    assert json.loads(mine["content"]) in ("red", "blue")


def test_properties(ours: httpx.Client, native: httpx.Client) -> None:
    ours.post("/tokenize", json={"content": "x"})
    mine, theirs = ours.get("/props").json(), native.get("/props").json()
    for key in ("chat_template", "total_slots", "modalities"):
        assert mine[key] == theirs[key]
    assert mine["default_generation_settings"]["n_ctx"] == theirs["default_generation_settings"]["n_ctx"] == CTX_SIZE
    (slot,) = ours.get("/slots").json()
    (theirs,) = native.get("/slots").json()
    assert slot == {key: theirs[key] for key in slot}


def test_errors_have_the_same_form(ours: httpx.Client, native: httpx.Client) -> None:
    for body in ({"prompt": "x", "temperature": "hot"}, {"prompt": "a " * 2 * CTX_SIZE}, {}):
        mine, theirs = (client.post("/completion", json=body) for client in (ours, native))
        assert mine.status_code == theirs.status_code == 400
        assert set(mine.json()["error"]) == set(theirs.json()["error"])
        assert mine.json()["error"]["type"] == theirs.json()["error"]["type"]
    assert ours.post("/detokenize", json={"tokens": [99_999_999]}).status_code == 400


def test_kobold_cuts_a_long_prompt_and_answers(ours: httpx.Client) -> None:
    body = {"prompt": "word " * 800 + "The capital of France is", "max_length": 4, "max_context_length": 64, "temperature": 0}
    answer = ours.post("/api/v1/generate", json=body)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert result["truncated_tokens"] > 200
    assert answer.headers["x-zhibei-truncated"] == f"tokens={result['truncated_tokens']}"
    assert result["prompt_tokens"] == 60
    assert result["completion_tokens"] <= 4
    assert result["text"]
    count = ours.post("/api/extra/tokencount", json={"prompt": "The capital of France is"}).json()
    assert count["value"] == len(count["ids"]) == 5
    assert ours.get("/api/v1/config/max_context_length").json() == {"value": CTX_SIZE}
