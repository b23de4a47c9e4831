"""The table of engines and the choice among them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zhibei.engines.registry import AUTOMATIC, ENGINES, choose, create
from zhibei.errors import BadSetting, EngineMissing
from zhibei.models import ModelInfo
from zhibei.plans import EngineInfo, Task

GGUF = ModelInfo("gguf", "llama")
SAFETENSORS = ModelInfo("safetensors", "llama")
LLAMA = EngineInfo("llama.cpp", True, "1", ("gguf",), ("generate", "embed", "rerank"))
MISSING = EngineInfo("llama.cpp", False, None, ("gguf",), ("generate",), problem="Not installed.", hint="pip install it")
ECHO = EngineInfo("echo", True, "1", ("gguf", "safetensors", "unknown"), ("generate",))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_can_be_made_and_names_itself(name: str) -> None:
    assert create(name).probe().name == name


def test_the_automatic_ones_are_in_the_table() -> None:
    assert set(AUTOMATIC) <= set(ENGINES) and "echo" not in AUTOMATIC


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(BadSetting) as caught:
        create("nothing")
    assert all(name in str(caught.value.hint_text) for name in ENGINES)


@pytest.mark.parametrize(
    ("wanted", "info", "task", "known", "name"),
    [
        ("auto", GGUF, "generate", [LLAMA, ECHO], "llama.cpp"),
        ("llama.cpp", GGUF, "embed", [LLAMA, ECHO], "llama.cpp"),
        ("echo", GGUF, "generate", [LLAMA, ECHO], "echo"),
        ("echo", None, "generate", [ECHO], "echo"),
    ],
)
def test_choice(wanted: str, info: ModelInfo | None, task: Task, known: list[EngineInfo], name: str) -> None:
    assert choose(wanted, info, task, {engine.name: engine for engine in known}).name == name


@pytest.mark.parametrize(
    ("wanted", "info", "task", "known", "said"),
    [
        ("auto", GGUF, "generate", [MISSING, ECHO], "Not installed."),
        ("llama.cpp", GGUF, "generate", [MISSING], "Not installed."),
        ("auto", SAFETENSORS, "generate", [LLAMA], "safetensors"),
        ("auto", SAFETENSORS, "generate", [MISSING], "safetensors"),
        ("auto", None, "generate", [LLAMA], "unknown"),
        ("auto", GGUF, "generate", [ECHO], "No engine here"),
        ("echo", GGUF, "embed", [ECHO], "embed"),
    ],
)
def test_no_choice(wanted: str, info: ModelInfo | None, task: Task, known: list[EngineInfo], said: str) -> None:
    with pytest.raises(EngineMissing) as caught:
        choose(wanted, info, task, {engine.name: engine for engine in known})
    assert said in str(caught.value) and caught.value.hint_text


def test_a_wanted_engine_that_nobody_knows() -> None:
    with pytest.raises(BadSetting, match="nothing"):
        choose("nothing", GGUF, "generate", {"llama.cpp": LLAMA})


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = """
import sys
from zhibei.engines import registry
assert not any("llama_cpp" in name or "echo" in name for name in sys.modules)
registry.create("llama.cpp").probe()
assert "xllamacpp" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
