"""Which model is meant by a request that names none, asked as front ends made for a server of one model ask."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import httpx
import pytest

from support.gguf_writer import u32
from support.models import model_bytes
from support.serving import Serving, import_model, serving
from zhibei.runtime.measurements import Measurements
from zhibei.runtime.runs import Run
from zhibei.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three models, that for vectors the newest."""
    (tmp_path / "m.gguf").write_bytes(model_bytes(4))
    (tmp_path / "v.gguf").write_bytes(model_bytes(4, **{"llama.pooling_type": u32(1)}))
    for name, file in (("first", "m.gguf"), ("second", "m.gguf"), ("vectors", "v.gguf")):
        import_model(tmp_path / "home", tmp_path / file, name)
    return tmp_path / "home"


def meant(server: Serving) -> str:
    """As KoboldAI's front ends ask, and tabbyAPI's."""
    shown: str = httpx.get(f"{server.url}/api/v1/model").json()["result"]
    assert shown.removeprefix("koboldcpp/") == httpx.get(f"{server.url}/v1/model").json()["id"]
    return shown.removeprefix("koboldcpp/")


def unload(server: Serving, name: str) -> None:
    assert httpx.post(f"{server.url}/models/unload", json={"model": name}, timeout=30).status_code == 200


def measured(model: str) -> Run:
    now = datetime(2026, 1, 2, tzinfo=timezone.utc)
    return Run("another", now, model, None, "llama", None, "llama.cpp", None, (), 1, 128, 0, 64, 1.0, 64, 1.0)


def test_the_loaded_one_then_the_one_last_used_then_the_newest(home: Path) -> None:
    with serving(home) as server:
        assert meant(server) == "second:latest"
        assert (
            httpx.post(f"{server.url}/api/v1/generate", json={"prompt": "one"}, timeout=30).json()["results"][0]["text"] == "one"
        )
        assert httpx.post(f"{server.url}/v1/completions", json={"model": "first", "prompt": "x"}, timeout=30).status_code == 200
        assert meant(server) == "first:latest"
        unload(server, "first")
        assert meant(server) == "second:latest", "it is still loaded"
        unload(server, "second")
        assert meant(server) == "second:latest"
        assert httpx.post(f"{server.url}/embedding", json={"content": "x"}, timeout=30).status_code == 200
        unload(server, "vectors")
        assert meant(server) == "second:latest", "what was used for vectors continues no text"
        assert httpx.request("DELETE", f"{server.url}/api/delete", json={"model": "second"}).status_code == 200
        assert meant(server) == "first:latest", "what is gone is not meant"


def test_the_one_last_used_is_known_after_a_restart(home: Path) -> None:
    kept = Measurements(home / "state")
    (home / "state").mkdir(exist_ok=True)
    for name in ("second:latest", "first:latest", "gone:latest", str(home.parent / "m.gguf")):
        assert kept.record(measured(name))
    with serving(home) as server:
        assert meant(server) == "first:latest"


def test_what_the_settings_say_goes_before_what_is_not_loaded(home: Path) -> None:
    with serving(home, settings=Settings(model="first")) as server:
        assert meant(server) == "first:latest"
    with serving(home, settings=Settings(model="absent")) as server:
        assert httpx.get(f"{server.url}/api/v1/model").json() == {"result": "ReadOnly"}
