"""Other people's clients for Ollama: LangChain, LlamaIndex, LiteLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.hanging_up import hanging_up
from support.serving import MODEL, Serving, serving, stored_model
from zhibei.chat import ChatRequest
from zhibei.events import Finished, TextDelta, Timings, ToolCallDelta, Usage

END = Finished(("stop",), Usage(7, 3), Timings(7, 0.25, 3, 0.5))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("ollama") / "home"
    stored_model(home)
    with serving(home) as running, hanging_up():
        yield running


@pytest.mark.filterwarnings("ignore")
def test_langchain(server: Serving) -> None:
    from langchain_core.tools import tool
    from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

    @tool
    def weather(town: str) -> str:
        """The weather in a town."""
        return town

    chat = ChatOllama(model=MODEL, base_url=server.url, validate_model_on_init=True, temperature=0.5, num_ctx=64)
    server.answers((TextDelta("Hi"), END), (TextDelta("a"), TextDelta("b"), END))
    found = chat.invoke("hello")
    assert found.content == "Hi" and found.usage_metadata is not None and found.usage_metadata["total_tokens"] == 10
    assert "".join(str(piece.content) for piece in chat.stream("hello")) == "ab"
    assert server.script.requests[-1].sampling.temperature == 0.5
    server.answers((ToolCallDelta(0, '{"town": "Bergen"}', "x", "weather"), END))
    (call,) = chat.bind_tools([weather]).invoke("hello").tool_calls
    assert (call["name"], call["args"]) == ("weather", {"town": "Bergen"})
    assert OllamaLLM(model=MODEL, base_url=server.url).invoke("one two") == "one two"
    assert "".join(OllamaLLM(model=MODEL, base_url=server.url).stream("one two")) == "one two"
    assert len(OllamaEmbeddings(model=MODEL, base_url=server.url).embed_documents(["a", "b"])) == 2


@pytest.mark.filterwarnings("ignore")
async def test_langchain_from_async_code(server: Serving) -> None:
    from langchain_ollama import ChatOllama

    # It has no way to be closed: a connection that it kept would outlive the event loop.
    chat = ChatOllama(model=MODEL, base_url=server.url, async_client_kwargs={"headers": {"connection": "close"}})
    assert "".join([str(piece.content) async for piece in chat.astream("one two")]) == "one two"


@pytest.mark.filterwarnings("ignore")
def test_llama_index(server: Serving) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.ollama import Ollama

    llm = Ollama(model=MODEL, base_url=server.url, context_window=64, request_timeout=30)
    assert llm.complete("one two").text == "one two"
    assert [piece.delta for piece in llm.stream_complete("one two")][:2] == ["one ", "two"]
    messages = [ChatMessage(role="system", content="S"), ChatMessage(role="user", content="three four")]
    assert llm.chat(messages).message.content == "three four"
    assert "".join(piece.delta or "" for piece in llm.stream_chat(messages)) == "three four"
    wanted = server.script.requests[-1]
    assert isinstance(wanted, ChatRequest) and wanted.messages[0].text == "S"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("provider", ["ollama", "ollama_chat"])
def test_litellm(server: Serving, provider: str) -> None:
    import litellm

    asked: dict[str, Any] = {
        "model": f"{provider}/{MODEL}",
        "api_base": server.url,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 5,
    }
    server.answers((TextDelta("Hi"), END), (TextDelta("a"), TextDelta("b"), END))
    found = litellm.completion(**asked)
    assert found.choices[0].message.content == "Hi" and found.usage.completion_tokens == 3
    assert server.script.requests[-1].limits.max_tokens == 5
    pieces = litellm.completion(**asked, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "ab"


@pytest.mark.filterwarnings("ignore")
def test_litellm_embeds(server: Serving) -> None:
    import litellm

    found = litellm.embedding(model=f"ollama/{MODEL}", input=["a", "b"], api_base=server.url)
    assert len(found.data) == 2
