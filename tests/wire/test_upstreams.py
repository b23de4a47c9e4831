"""Another server as engine: a Zhibei in front of a Zhibei, and of servers that do not behave."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest

from support.serving import MODEL, Serving, serving
from support.upstreams import Fake, chunk, faking, models, serving_others, usage
from zhibei.engines.echo import Fail
from zhibei.errors import BadRequest
from zhibei.events import Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from zhibei.settings import UpstreamSettings

THEIRS = f"upstream:desk/{MODEL}"


@pytest.fixture(scope="module")
def behind(tiny_home: Path) -> Iterator[Serving]:
    with serving(tiny_home, api_key="behind-key") as running:
        yield running


@pytest.fixture(scope="module")
def front(behind: Serving, tiny_home: Path) -> Iterator[Serving]:
    with serving_others(tiny_home, {"desk": UpstreamSettings(behind.url, "behind-key")}) as running:
        yield running


Clients = Callable[[Serving], openai.OpenAI]


@pytest.fixture
def client_of() -> Iterator[Clients]:
    """Clients that are closed with the test."""
    with ExitStack() as stack:

        def client(server: Serving) -> openai.OpenAI:
            return stack.enter_context(openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0))

        yield client


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_their_models_are_in_the_list_beside_ours(front: Serving) -> None:
    found = httpx.get(f"{front.url}/zhibei/v1/models").json()
    assert [(model["name"], model["source"]) for model in found][-1] == (THEIRS, THEIRS)
    assert MODEL in [model["name"] for model in found]
    assert found[-1]["files"] == [] and found[-1]["info"]["format"] == "upstream"


def test_openais_list_has_them_too(client_of: Clients, front: Serving) -> None:
    assert THEIRS in [model.id for model in client_of(front).models.list()]
    assert client_of(front).models.retrieve(THEIRS).id == THEIRS


def test_a_chat_goes_through(client_of: Clients, front: Serving, behind: Serving) -> None:
    answer = client_of(front).chat.completions.create(model=THEIRS, messages=[{"role": "user", "content": "one two three"}])
    assert answer.choices[0].message.content == "one two three"
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    assert behind.script.requests and not front.script.requests


def test_a_stream_goes_through_with_reasoning_and_tools(client_of: Clients, front: Serving, behind: Serving) -> None:
    behind.answers(
        [
            ReasoningDelta("Hm."),
            TextDelta("So "),
            TextDelta("be it."),
            ToolCallDelta(0, '{"a":', "call_1", "f"),
            ToolCallDelta(0, "1}"),
            Finished(("tool_calls",), Usage(7, 5, 2)),
        ]
    )
    stream = client_of(front).chat.completions.create(
        model=THEIRS,
        messages=[{"role": "user", "content": "x"}],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    deltas = [each.choices[0].delta for each in chunks if each.choices]
    assert "".join(delta.content or "" for delta in deltas) == "So be it."
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert calls[0].function is not None and calls[0].function.name == "f"
    assert "".join((call.function and call.function.arguments) or "" for call in calls) == '{"a":1}'
    assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == "tool_calls"
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 7


def test_completions_and_tokens_go_through(client_of: Clients, front: Serving) -> None:
    answer = client_of(front).completions.create(model=THEIRS, prompt="one two three", max_tokens=2)
    assert answer.choices[0].text == "one two " and answer.choices[0].finish_reason == "length"
    tokens = httpx.post(f"{front.url}/zhibei/v1/tokenize", json={"model": THEIRS, "text": "ab"}).json()["tokens"]
    assert tokens == [97, 98]


def test_embeddings_go_through(client_of: Clients, front: Serving) -> None:
    answer = client_of(front).embeddings.create(model=THEIRS, input=["a", "b"])
    assert len(answer.data) == 2 and answer.data[0].embedding != answer.data[1].embedding


def test_their_refusal_is_told_with_their_words(client_of: Clients, front: Serving, behind: Serving) -> None:
    behind.answers([Fail(BadRequest("The moon is wrong."))])
    with pytest.raises(openai.BadRequestError, match="The moon is wrong"):
        client_of(front).chat.completions.create(model=THEIRS, messages=[{"role": "user", "content": "x"}])


def test_a_client_that_leaves_frees_their_slot(client_of: Clients, front: Serving, behind: Serving) -> None:
    gate, num_before = behind.gate(), behind.script.num_abandoned
    behind.answers([TextDelta("one "), gate.step, Finished(("stop",), Usage(1, 1))])
    stream = client_of(front).chat.completions.create(model=THEIRS, messages=[{"role": "user", "content": "x"}], stream=True)
    next(iter(stream))
    stream.close()
    behind.until(lambda: behind.script.num_abandoned == num_before + 1 and behind.script.num_running == 0)


def test_what_can_only_be_set_where_it_is_loaded_is_refused(client_of: Clients, front: Serving) -> None:
    with pytest.raises(openai.BadRequestError, match="ctx_size cannot be set for upstream:desk"):
        client_of(front).chat.completions.create(
            model=THEIRS, messages=[{"role": "user", "content": "x"}], extra_body={"num_ctx": 4096}
        )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("upstream:desk/other:latest", "has no model other:latest"),
        ("upstream:shelf/tiny", "no server 'shelf' in the configuration"),
    ],
)
def test_models_and_servers_that_are_not_there(client_of: Clients, front: Serving, model: str, said: str) -> None:
    with pytest.raises(openai.NotFoundError, match=said):
        client_of(front).chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "model", ["upstream:desk", "upstream:desk/", "upstream:/x", "upstream:../x", f"upstream:desk/{'x' * 600}"]
)
def test_names_that_are_none(client_of: Clients, front: Serving, model: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client_of(front).chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}])


def test_a_server_that_is_down_neither_breaks_the_list_nor_hides_which_it_is(client_of: Clients, tiny_home: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    with serving_others(tiny_home, {"gone": UpstreamSettings(url)}) as front:
        names = [model["name"] for model in httpx.get(f"{front.url}/zhibei/v1/models").json()]
        assert names == [MODEL]
        with pytest.raises(openai.APIStatusError) as caught:
            client_of(front).chat.completions.create(model="upstream:gone/x", messages=[{"role": "user", "content": "x"}])
        assert caught.value.status_code == 502
        assert f"The server gone at {url} does not answer." in str(caught.value)


def test_a_wrong_key_is_told_without_the_key(client_of: Clients, behind: Serving, tiny_home: Path) -> None:
    with serving_others(tiny_home, {"desk": UpstreamSettings(behind.url, "secret-wrong-key")}) as front:
        with pytest.raises(openai.APIStatusError) as caught:
            client_of(front).chat.completions.create(model=THEIRS, messages=[{"role": "user", "content": "x"}])
        assert caught.value.status_code == 502
        assert "wants another key" in str(caught.value) and "secret-wrong-key" not in str(caught.value)


def test_two_servers_that_stand_behind_each_other_list_their_own_models(tiny_home: Path) -> None:
    first_port, second_port = closed_port(), closed_port()
    settings = {"other": UpstreamSettings(f"http://127.0.0.1:{second_port}")}
    with (
        serving_others(tiny_home, settings, port=first_port) as first,
        serving_others(tiny_home, {"other": UpstreamSettings(first.url)}, port=second_port) as second,
    ):
        for server in (first, second):
            names = [model["name"] for model in httpx.get(f"{server.url}/zhibei/v1/models").json()]
            assert names == [MODEL, f"upstream:other/{MODEL}"]


def test_a_server_does_not_stand_behind_itself(client_of: Clients, tiny_home: Path) -> None:
    port = closed_port()
    with serving_others(tiny_home, {"self": UpstreamSettings(f"http://127.0.0.1:{port}")}, port=port) as front:
        assert [model["name"] for model in httpx.get(f"{front.url}/zhibei/v1/models").json()] == [MODEL]
        with pytest.raises(openai.APIStatusError, match="is this very server"):
            client_of(front).chat.completions.create(model=f"upstream:self/{MODEL}", messages=[{"role": "user", "content": "x"}])


@pytest.fixture(scope="module")
def one_fake() -> Iterator[Fake]:
    with faking({}) as running:
        yield running


@pytest.fixture(scope="module")
def before(one_fake: Fake, tiny_home: Path) -> Iterator[Serving]:
    with serving_others(tiny_home, {"fake": UpstreamSettings(f"{one_fake.url}/v1", "k")}) as running:
        yield running


@pytest.fixture
def fake(one_fake: Fake) -> Fake:
    """Another server that has one model and has heard nothing yet."""
    one_fake.replies = {"GET /v1/models": models("m")}
    one_fake.heard.clear()
    return one_fake


def ask(client: openai.OpenAI, **more: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": "x"}]
    answer = client.chat.completions.create(model="upstream:fake/m", messages=messages, **more)  # type: ignore[call-overload]
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    return answer


def test_the_key_goes_to_them_and_ours_does_not(client_of: Clients, before: Serving, fake: Fake) -> None:
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("hi"), chunk(reason="stop"), usage(3, 1)])
    assert ask(client_of(before)).choices[0].message.content == "hi"
    assert fake.heard and {each.headers["Authorization"] for each in fake.heard} == {"Bearer k"}


def test_what_a_plain_server_does_not_know_is_not_sent(client_of: Clients, before: Serving, fake: Fake) -> None:
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("hi"), chunk(reason="stop"), usage(3, 1)])
    ask(client_of(before), temperature=0.5, extra_body={"top_k": 5, "min_p": 0.1, "dry_multiplier": 0.8})
    (body,) = fake.bodies("/v1/chat/completions")
    assert body["temperature"] == 0.5 and body["model"] == "m"
    assert not {"top_k", "min_p", "dry_multiplier"} & set(body)


def test_redirects_are_not_followed(client_of: Clients, before: Serving, fake: Fake) -> None:
    with faking({"POST /v1/chat/completions": (200, [chunk("stolen"), chunk(reason="stop")])}) as elsewhere:
        fake.replies["POST /v1/chat/completions"] = (307, f"{elsewhere.url}/v1/chat/completions")
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client_of(before))
        assert caught.value.status_code == 502 and not elsewhere.heard


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ((200, [chunk("hi")]), 502),
        ((200, [chunk("hi"), b"{no json"]), 502),
        ((200, [chunk("hi"), {"choices": [7]}]), 502),
        ((200, [{"error": {"message": "kaputt", "type": "server_error"}}]), 502),
        ((500, {"error": "kaputt"}), 502),
        ((429, {"error": {"message": "slow down"}}), 503),
        ((404, {"error": {"message": "model 'm' not found", "type": "not_found_error"}}), 400),
    ],
)
def test_answers_that_are_wrong_are_errors_and_never_ends(
    client_of: Clients, before: Serving, fake: Fake, reply: tuple[int, object], status: int
) -> None:
    fake.replies["POST /v1/chat/completions"] = reply
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client_of(before))
    assert caught.value.status_code == status


def test_one_that_broke_off_often_is_asked_again_all_the_same(client_of: Clients, before: Serving, fake: Fake) -> None:
    """What dies too often is left alone for a while; another server is not ours to judge so."""
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("hi")])
    for _ in range(4):
        with pytest.raises(openai.APIStatusError, match="does not answer"):
            ask(client_of(before))
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("hi"), chunk(reason="stop"), usage(1, 1)])
    assert ask(client_of(before)).choices[0].message.content == "hi"


def test_usage_that_they_do_not_give_is_counted_in_pieces(client_of: Clients, before: Serving, fake: Fake) -> None:
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("a"), chunk("b"), chunk(reason="stop")])
    counted = ask(client_of(before)).usage
    assert counted is not None and (counted.prompt_tokens, counted.completion_tokens) == (0, 2)


def test_a_client_that_leaves_closes_their_stream(client_of: Clients, before: Serving, fake: Fake) -> None:
    num_before = fake.num_left
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("a"), None])
    messages = [{"role": "user", "content": "x"}]
    stream = client_of(before).chat.completions.create(model="upstream:fake/m", messages=messages, stream=True)  # type: ignore[call-overload]
    next(iter(stream))
    stream.close()
    before.until(lambda: fake.num_left == num_before + 1)


def test_one_that_names_its_models_is_not_asked_for_them(client_of: Clients, fake: Fake, tiny_home: Path) -> None:
    fake.replies["POST /v1/chat/completions"] = (200, [chunk("hi"), chunk(reason="stop"), usage(1, 1)])
    with serving_others(tiny_home, {"fake": UpstreamSettings(fake.url, models=("hidden/Model:7b",))}) as front:
        names = [model["name"] for model in httpx.get(f"{front.url}/zhibei/v1/models").json()]
        assert names == [MODEL, "upstream:fake/hidden/Model:7b"]
        answer = client_of(front).chat.completions.create(model=names[1], messages=[{"role": "user", "content": "x"}])
        assert answer.choices[0].message.content == "hi"
        with pytest.raises(openai.NotFoundError, match="offers no model m"):
            client_of(front).chat.completions.create(model="upstream:fake/m", messages=[{"role": "user", "content": "x"}])
