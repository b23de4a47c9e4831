"""What other servers and their models may be called, and what the settings may say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.engines.registry import choose
from zhibei.engines.upstream.backend import UpstreamBackend
from zhibei.engines.upstream.discovery import free_name
from zhibei.errors import BadReference, BadSetting, EngineMissing
from zhibei.models import ModelInfo
from zhibei.plans import EngineInfo
from zhibei.refs import ModelName, ModelRef, UpstreamModel, is_upstream_model
from zhibei.settings import UpstreamSettings, is_secret, resolve

THEIRS = ModelInfo("upstream", "upstream")


@pytest.mark.parametrize(
    ("text", "server", "model"),
    [
        ("upstream:desk/qwen3:4b", "desk", "qwen3:4b"),
        ("upstream:vllm/Qwen/Qwen3-4B", "vllm", "Qwen/Qwen3-4B"),
        ("UPSTREAM:Desk/C:\\models\\A.gguf", "desk", "C:\\models\\A.gguf"),
        ("upstream:desk/模型", "desk", "模型"),
    ],
)
def test_a_model_of_another_server_keeps_its_own_name(text: str, server: str, model: str) -> None:
    found = UpstreamModel.of(ModelRef.parse(text))
    assert (found.server, found.model) == (server, model)
    assert UpstreamModel.of(ModelRef.parse(str(found))) == found


@pytest.mark.parametrize(
    "text", ["upstream:x", "upstream:/x", "upstream:x/", "upstream:a b/x", "upstream:con/x", "upstream:d/a b", "hf:a/b"]
)
def test_what_names_none(text: str) -> None:
    with pytest.raises(BadReference):
        UpstreamModel.of(ModelRef.parse(text))


def test_upstream_is_no_name_of_a_model_here() -> None:
    with pytest.raises(BadReference):
        ModelName.parse("upstream:latest")


@given(st.text(max_size=600))
def test_a_models_name_is_bounded_and_can_be_printed(text: str) -> None:
    if is_upstream_model(text):
        assert 0 < len(text) <= 512 and text.isprintable() and text.split() == [text]
        assert UpstreamModel.of(ModelRef.parse(f"upstream:desk/{text}")).model == text


def settings_of(tmp_path: Path, text: str) -> dict[str, UpstreamSettings]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return dict(resolve(environ={}, config=path).settings.upstreams)


def test_settings(tmp_path: Path) -> None:
    text = '[upstreams.desk]\nurl = "https://box:1/v1"\napi_key = "k"\nmodels = ["A/b:c"]\n[upstreams."a.b"]\nurl = "http://[::1]:1"\n'
    assert settings_of(tmp_path, text) == {
        "desk": UpstreamSettings("https://box:1/v1", "k", ("A/b:c",)),
        "a.b": UpstreamSettings("http://[::1]:1"),
    }


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("Desk", 'url = "http://h"', "cannot be called 'Desk'"),
        ('"a/b"', 'url = "http://h"', "cannot be called 'a/b'"),
        ("desk", 'api_key = "k"', "upstreams.desk.url cannot be ''"),
        ("desk", 'url = "ftp://h"', "upstreams.desk.url cannot be 'ftp://h'"),
        ("desk", 'url = "http://u:pass@h"', "upstreams.desk.url cannot be 'http://…@h'"),
        ("desk", 'url = "http://h?x=1"', "upstreams.desk.url cannot be"),
        ("desk", 'url = "http://h"\napi_key = " "', "upstreams.desk.api_key is no key"),
        ("desk", 'url = "http://h"\napi_key = "a\\nX-Other: b"', "upstreams.desk.api_key is no key"),
        ("desk", 'url = "http://h"\nmodels = ["a b"]', "cannot name a model 'a b'"),
        ("desk", 'url = "http://h"\nother = 1', "There is no setting"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, name: str, body: str, said: str) -> None:
    with pytest.raises(BadSetting) as caught:
        settings_of(tmp_path, f"[upstreams.{name}]\n{body}\n")
    assert said in str(caught.value) and "X-Other" not in str(caught.value)


def test_their_keys_are_secrets() -> None:
    assert is_secret("upstreams.desk.api_key") and is_secret('upstreams."a.b".api_key') and not is_secret("upstreams.desk.url")


@pytest.mark.parametrize("wanted", ["auto", "echo", "llama.cpp"])
def test_their_models_have_no_choice_of_an_engine(wanted: str) -> None:
    known = {"upstream": UpstreamBackend().probe(), "echo": EngineInfo("echo", True, "1", ("gguf",), ("generate",))}
    assert choose(wanted, THEIRS, "embed", known).name == "upstream"
    with pytest.raises(EngineMissing):
        choose("upstream", ModelInfo("gguf", "llama"), "generate", known)


def test_free_names() -> None:
    assert free_name("ollama", ()) == "ollama"
    assert free_name("ollama", {"ollama", "ollama-2"}) == "ollama-3"
