"""OpenAI's requests to ours: what is taken, and what is refused in words."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from support import images
from zhibei.chat import ImagePart, Message, ResponseFormat, TextPart, Tool, ToolCall, ToolChoice
from zhibei.errors import BadRequest, Unsupported
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.server.openai import schema, translate

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
PNG = images.png()


def chat(**fields: Any) -> Any:
    body = schema.ChatBody.model_validate({"model": "m", "messages": HELLO, **fields})
    return translate.chat_request(body)


def completion(**fields: Any) -> Any:
    body = schema.CompletionBody.model_validate({"model": "m", "prompt": "p", **fields})
    return translate.completion_requests(body)


def image(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_every_sampling_field_is_carried_over() -> None:
    given: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "typical_p": 0.8,
        "repeat_penalty": 1.1,
        "repeat_last_n": -1,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "seed": 7,
        "mirostat": 2,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "dry_multiplier": 0.8,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.1,
    }
    wanted = Sampling(**given, logit_bias=((15, -100.0), (16, 1.5)))
    fields = {**given, "logit_bias": {"15": -100, "16": 1.5}}
    assert chat(**fields).sampling == wanted
    assert completion(**fields)[0].sampling == wanted


def test_repetition_penalty_is_another_name() -> None:
    assert chat(repetition_penalty=1.2).sampling.repeat_penalty == 1.2
    assert chat(repetition_penalty=1.2, repeat_penalty=1.3).sampling.repeat_penalty == 1.3


@pytest.mark.parametrize(
    ("seed", "wanted"),
    [(None, None), (-1, None), (0, 0), (2**32 - 2, 2**32 - 2), (2**32 - 1, 0), (2**63 - 1, (2**63 - 1) % (2**32 - 1))],
)
def test_any_64_bit_seed_is_a_32_bit_seed(seed: int | None, wanted: int | None) -> None:
    assert chat(seed=seed).sampling.seed == wanted


def test_limits() -> None:
    assert chat(max_tokens=5, stop="a").limits == Limits(5, ("a",))
    assert chat(max_tokens=5, max_completion_tokens=6, stop=["a", "b"], ignore_eos=True).limits == Limits(6, ("a", "b"), True)
    assert chat().limits == Limits()


@pytest.mark.parametrize("stop", ["", ["a", ""], ["x"] * 17, "x" * 2000])
def test_stops_are_bounded(stop: object) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(stop=stop)
    assert caught.value.param == "stop"


def test_a_conversation_with_everything_in_it() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    data = base64.b64encode(PNG).decode()
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": [{"type": "text", "text": "and kind"}]},
        {
            "role": "user",
            "name": "ann",
            "content": [{"type": "text", "text": "look"}, *image(f"data:image/png;base64,{data}")[0]["content"]],
        },
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "assistant", "content": "nice", "refusal": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "refusal": "never"},
    ]
    assert chat(messages=messages).messages == (
        Message.of("system", "be brief"),
        Message.of("system", "and kind"),
        Message("user", (TextPart("look"), ImagePart(PNG, "image/png")), name="ann"),
        Message("assistant", (), reasoning="hm", tool_calls=(ToolCall("call_1", "weather", '{"city": "Bern"}'),)),
        Message("tool", (TextPart("sunny"),), tool_call_id="call_1"),
        Message.of("assistant", "nice"),
        Message.of("assistant", "no"),
        Message.of("assistant", "never"),
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "assistant", "content": None}, "messages[0].content"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].image_url"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[0].content[0].type"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "assistant", "content": "x", "function_call": {}}, "messages[0].function_call"),
        (
            {"role": "user", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}]},
            "messages[0].tool_calls",
        ),
        ({**image(images.data_url(PNG))[0], "role": "assistant"}, "messages[0].content"),
    ],
)
def test_messages_that_make_no_sense_are_refused_by_place(message: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(messages=[message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "https://example.com/a.png",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "/etc/passwd",
        "",
        "data:image/png;base64",
        "data:image/svg+xml;base64,YQ==",
        "data:text/html;base64,YQ==",
        "data:image/png,raw",
        "data:image/png;base64,",
        "data:image/png;base64,not base64!",
        "data:image/png;base64,YQ",
    ],
)
def test_images_that_are_not_in_the_request_are_refused(url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(messages=image(url))
    assert caught.value.param == "messages[0].content[0].image_url.url"


def test_tools() -> None:
    tool = Tool("weather", "d", {"type": "object"})
    assert chat(tools=[WEATHER]).tools == (tool,)
    assert chat(tools=[WEATHER], parallel_tool_calls=False).parallel_tool_calls is False
    for given, wanted in (
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "weather"}}, ToolChoice("required", "weather")),
    ):
        assert chat(tools=[WEATHER], tool_choice=given).tool_choice == wanted


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
    ],
)
def test_tools_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        chat(**fields)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, ResponseFormat()),
        ({"type": "text"}, ResponseFormat()),
        ({"type": "json_object"}, ResponseFormat("json_object")),
        ({"type": "json_object", "schema": {"type": "object"}}, ResponseFormat("json_schema", {"type": "object"})),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "array"}}},
            ResponseFormat("json_schema", {"type": "array"}),
        ),
    ],
)
def test_response_formats(given: object, wanted: ResponseFormat) -> None:
    assert chat(response_format=given).response_format == wanted


def test_a_json_schema_without_a_schema_is_refused() -> None:
    for fields in ({"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "n"}}):
        with pytest.raises(BadRequest) as caught:
            chat(response_format=fields)
        assert caught.value.param == "response_format.json_schema.schema"


def test_llama_cpps_json_schema_is_not_lost() -> None:
    wanted = ResponseFormat("json_schema", {"type": "object"})
    assert completion(json_schema={"type": "object"})[0].response_format == wanted
    assert chat(json_schema={"type": "object"}).response_format == wanted


def test_logprobs() -> None:
    assert chat().top_logprobs is None
    assert chat(logprobs=False).top_logprobs is None
    assert chat(logprobs=True).top_logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).top_logprobs == 20
    assert completion(logprobs=0)[0].top_logprobs == 0
    with pytest.raises(BadRequest):
        chat(top_logprobs=3)


def test_reasoning() -> None:
    assert chat().reasoning_effort is None
    assert chat(reasoning_effort="high").reasoning_effort == "high"
    assert chat(chat_template_kwargs={"enable_thinking": False}).reasoning_effort == "none"
    assert chat(chat_template_kwargs={"enable_thinking": True}).reasoning_effort is None


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{{ x }}"},
        {"chat_template": ""},
        {"chat_template_kwargs": {"tokenize": True}},
        {"chat_template_kwargs": {"enable_thinking": "yes"}},
        {"chat_template_kwargs": {"enable_thinking": True, "documents": []}},
        {"grammar": "root ::= x"},
    ],
)
def test_templates_and_grammars_of_a_request_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        chat(**fields)
    if "chat_template_kwargs" not in fields:
        with pytest.raises(BadRequest):
            completion(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {}},
        {"functions": []},
        {"function_call": "auto"},
        {"service_tier": "flex"},
        {"store": True},
    ],
)
def test_what_is_known_but_cannot_be_done_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as caught:
        chat(**fields)
    assert caught.value.param == next(iter(fields))


def test_harmless_fields_are_taken() -> None:
    body = schema.ChatBody.model_validate(
        {
            "model": "m",
            "messages": HELLO,
            "user": "u",
            "metadata": {"a": "b"},
            "store": False,
            "service_tier": "auto",
            "safety_identifier": "s",
            "prompt_cache_key": "k",
            "modalities": ["text"],
            "audio": None,
            "logit_bias": None,
        }
    )
    translate.chat_request(body)
    assert translate.asked(body).ignored == ()


def test_unknown_fields_are_named_and_their_names_are_safe_in_a_header() -> None:
    body = schema.ChatBody.model_validate(
        {"model": "m", "messages": [{**HELLO[0], "extra": 1}], "n_discard": -1, "bad\r\nname: x": 1, "名": 1, "x" * 200: 1}
    )
    assert translate.asked(body).ignored == ("n_discard", "badnamex", "?", "x" * 64, "messages.extra")


def test_unknown_fields_are_bounded_in_number() -> None:
    body = schema.ChatBody.model_validate({"model": "m", "messages": HELLO, **{f"x{number}": 1 for number in range(500)}})
    assert len(translate.asked(body).ignored) == 32


def test_temperatures_beyond_openais_range_are_for_zhibei_itself() -> None:
    with pytest.raises(BadRequest):
        chat(temperature=2.1)
    body = schema.ChatBody.model_validate({"model": "m", "messages": HELLO, "temperature": 2.1})
    assert translate.chat_request(body, own=True).sampling.temperature == 2.1


def test_loading_and_keeping() -> None:
    load = {"ctx_size": 4096, "cache_type_k": "q8_0", "tensor_split": [1, 2.5], "mmap": False}
    body = schema.EmbeddingBody.model_validate({"model": "m", "input": "x", "load": load, "keep_alive": "5m"})
    asked = translate.asked(body)
    assert asked.options.load == LoadOptions(ctx_size=4096, cache_type_k="q8_0", tensor_split=(1, 2.5), mmap=False)
    assert asked.options.keep_alive == "300.000"


@pytest.mark.parametrize(
    ("given", "wanted"), [(0, "0.000"), (-1, "forever"), ("-1m", "forever"), ("forever", "forever"), (0.5, "0.500")]
)
def test_keep_alive_has_one_form(given: object, wanted: str) -> None:
    body = schema.EmbeddingBody.model_validate({"model": "m", "input": "x", "keep_alive": given})
    assert translate.asked(body).options.keep_alive == wanted


@pytest.mark.parametrize("given", ["soon", "", "5 weeks", 1e308])
def test_keep_alive_that_is_no_duration_is_refused(given: object) -> None:
    with pytest.raises(BadRequest) as caught:
        translate.asked(schema.EmbeddingBody.model_validate({"model": "m", "input": "x", "keep_alive": given}))
    assert caught.value.param == "keep_alive" and str(caught.value)


@pytest.mark.parametrize("name", ["lora", "mmproj", "draft_model", "chat_template"])
def test_files_of_the_server_cannot_be_named(name: str) -> None:
    for value in ("/etc/passwd", [["a", 1]], "", 5):
        with pytest.raises(BadRequest) as caught:
            translate.asked(schema.EmbeddingBody.model_validate({"model": "m", "input": "x", "load": {name: value}}))
        assert caught.value.param == f"load.{name}"


@pytest.mark.parametrize("load", [{"n_ctx": 1}, {"ctx_size": 0}, {"ctx_size": "1"}, {"mmap": 1}, {"cache_type_k": "q2"}, [], "x"])
def test_load_takes_what_it_knows_and_nothing_else(load: object) -> None:
    with pytest.raises(ValidationError):
        schema.EmbeddingBody.model_validate({"model": "m", "input": "x", "load": load})


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_prompts_have_four_forms(prompt: object, wanted: list[object]) -> None:
    assert [request.prompt for request in completion(prompt=prompt)] == wanted


@pytest.mark.parametrize("prompt", [[], ["x"] * 2049, [[1]] * 2049])
def test_prompts_are_bounded_in_number(prompt: object) -> None:
    with pytest.raises(BadRequest):
        completion(prompt=prompt)


def test_a_prompt_of_many_tokens_is_one_prompt() -> None:
    assert len(completion(prompt=list(range(5000)))[0].prompt) == 5000


@pytest.mark.parametrize("fields", [{"best_of": 3}, {"best_of": 2, "n": 3}, {"echo": True, "logprobs": 1}])
def test_what_completions_cannot_do_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        completion(**fields)


def test_best_of_as_many_as_are_returned_is_nothing_special() -> None:
    assert completion(best_of=3, n=3)[0].num_choices == 3
    assert completion(best_of=1)[0].num_choices == 1


@pytest.mark.parametrize("given", ["", [""], ["a", ""], [], [[]], [[1], []]])
def test_empty_texts_have_no_vector(given: object) -> None:
    with pytest.raises(BadRequest):
        translate.embedding_request(schema.EmbeddingBody.model_validate({"model": "m", "input": given}))


NUMBERS = """
temperature top_p min_p typical_p presence_penalty frequency_penalty repeat_penalty seed n max_tokens top_k repeat_last_n mirostat
dry_multiplier dry_base dry_allowed_length xtc_probability
""".split()


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", ["5", [], {}, True, float("inf"), float("nan"), -(2**31) - 1, 2**64, 1e308])
def test_numbers_are_numbers_and_within_range(field: str, value: object) -> None:
    if field == "seed" and value == -(2**31) - 1:
        return
    for kind in (schema.ChatBody, schema.CompletionBody):
        with pytest.raises(ValidationError):
            kind.model_validate({"model": "m", "messages": HELLO, "prompt": "p", field: value})
