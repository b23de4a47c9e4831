"""Programs that others wrote on OpenAI's and Anthropic's APIs, with nothing but the address changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.hanging_up import hanging_up
from support.node import run_node
from support.serving import MODEL, Serving, serving
from zhibei.events import Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage

# They warn of their own makings, and of those of their dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")
CALL = (ToolCallDelta(0, '{"city": "Bern"}', "call_a", "weather"), Finished(("tool_calls",), Usage(3, 2)))
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather somewhere.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[Serving]:
    with serving(tiny_home) as made, hanging_up():
        yield made


def test_langchain(server: Serving) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from pydantic import SecretStr

    key = SecretStr("none")
    chat = ChatOpenAI(base_url=server.url + "/v1", api_key=key, model=MODEL, max_retries=0)
    assert chat.invoke("guten Tag").content == "guten Tag"
    assert "".join(str(chunk.content) for chunk in chat.stream("a b c")) == "a b c"
    server.answers(CALL)
    bound = chat.bind_tools([{"type": "function", "function": WEATHER}])
    asked = bound.invoke("weather?")
    assert asked.tool_calls[0]["args"] == {"city": "Bern"}  # type: ignore[attr-defined]
    told = ToolMessage("sunny", tool_call_id=asked.tool_calls[0]["id"])  # type: ignore[attr-defined]
    assert bound.invoke([HumanMessage("weather?"), asked, told]).content == "weather?"
    embed = OpenAIEmbeddings(base_url=server.url + "/v1", api_key=key, model=MODEL, check_embedding_ctx_length=False)
    assert len(embed.embed_documents(["a", "b"])) == 2


def test_langchain_on_responses(server: Serving) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    made: Any = {"base_url": server.url + "/v1", "api_key": SecretStr("none"), "model": MODEL, "max_retries": 0}
    chat = ChatOpenAI(use_responses_api=True, output_version="responses/v1", **made)
    assert chat.invoke("guten Tag").text == "guten Tag"
    assert "".join(chunk.text for chunk in chat.stream("a b c")) == "a b c"
    server.answers(CALL)
    assert chat.bind_tools([{"type": "function", "function": WEATHER}]).invoke("?").tool_calls[0]["args"] == {"city": "Bern"}  # type: ignore[attr-defined]


def test_litellm(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would ask the network for prices otherwise.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    said = [{"role": "user", "content": "a b c"}]
    for model, base in ((f"openai/{MODEL}", server.url + "/v1"), (f"anthropic/{MODEL}", server.url)):
        asked: dict[str, Any] = {"model": model, "api_base": base, "api_key": "none", "messages": said, "max_tokens": 50}
        answer: Any = litellm.completion(**asked)
        assert answer.choices[0].message.content == "a b c" and answer.usage.completion_tokens == 3
        chunks: Any = litellm.completion(stream=True, **asked)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b c"
    made: Any = litellm.embedding(model=f"openai/{MODEL}", api_base=server.url + "/v1", api_key="none", input=["a"])
    assert len(made.data) == 1


def test_llama_index(server: Serving) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.llms.openai_like import OpenAILike

    base = server.url + "/v1"
    chat = OpenAILike(model=MODEL, api_base=base, api_key="none", is_chat_model=True, max_retries=0)
    assert chat.chat([ChatMessage(role="user", content="a b")]).message.content == "a b"
    assert "".join(chunk.delta or "" for chunk in chat.stream_chat([ChatMessage(role="user", content="a b")])) == "a b"
    plain = OpenAILike(model=MODEL, api_base=base, api_key="none", is_chat_model=False, max_retries=0)
    assert plain.complete("a b").text == "a b"
    embed = OpenAILikeEmbedding(model_name=MODEL, api_base=base, api_key="none", max_retries=0)
    assert len(embed.get_text_embedding("a")) == 8


def test_openai_for_javascript(server: Serving, node_packages: Path) -> None:
    server.answers(
        (TextDelta("a "), TextDelta("b"), Finished(("stop",), Usage(3, 2))),
        CALL,
        (ReasoningDelta("hm"), TextDelta("yes"), Finished(("stop",), Usage(3, 2))),
    )
    script = """
    import OpenAI from "openai";
    const client = new OpenAI({ baseURL: given.url + "/v1", apiKey: "none", maxRetries: 0 });
    const messages = [{ role: "user", content: "x y" }];
    const model = given.model;
    const found = {};
    let text = "";
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true }))
      text += chunk.choices[0].delta.content ?? "";
    found.streamed = text;
    const tool = { type: "function", ...JSON.parse(given.tool) };
    const called = await client.responses.create({ model, input: "?", tools: [tool] });
    found.call = called.output[0].arguments;
    const stream = client.responses.stream({ model, input: "?" });
    const final = await stream.finalResponse();
    found.kinds = final.output.map((item) => item.type);
    found.text = final.output_text;
    found.next = (await client.responses.create({ model, input: "next", previous_response_id: final.id })).output_text;
    const helper = client.chat.completions.stream({ model, messages });
    found.helped = await helper.finalContent();
    const vectors = await client.embeddings.create({ model, input: ["a", "b"] });
    found.lengths = vectors.data.map((each) => each.embedding.length);
    found.models = (await client.models.list()).data.map((each) => each.id);
    try { await client.chat.completions.create({ model: "nowhere", messages }); }
    catch (error) { found.error = [error.status, error.code]; }
    give(found);
    """
    assert run_node(script, node_packages, url=server.url, model=MODEL, tool=json.dumps(WEATHER)) == {
        "streamed": "a b",
        "call": '{"city": "Bern"}',
        "kinds": ["reasoning", "message"],
        "text": "yes",
        "next": "next",
        "helped": "x y",
        "lengths": [8, 8],
        "models": [MODEL],
        "error": [404, "model_not_found"],
    }
