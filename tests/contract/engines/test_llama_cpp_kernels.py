"""Our own kernels within a real engine: the same text with them and without, what shows them, and what a crash of them does."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import httpx
import pytest

from support.program import Program
from support.serving import serving
from zhibei.chat import ChatRequest, EmbeddingRequest, Message
from zhibei.engines.llama_cpp import kernels
from zhibei.engines.llama_cpp.backend import LlamaCppBackend
from zhibei.events import Finished, GenerationEvent, TextDelta
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.plans import EngineSpec, Kernels
from zhibei.settings import Settings

pytest.importorskip("xllamacpp", reason="the engine: pip install 'zhibei[llama-cpp]'")
pytestmark = pytest.mark.model

EXPECTED = LlamaCppBackend().probe().kernels
needs_kernels = pytest.mark.skipif(
    EXPECTED is None or EXPECTED.level is None, reason="zhibei-kernels are not installed, or not for this machine"
)
ASK = ChatRequest(
    (Message.of("user", "Name the planets of the solar system, and say a word on each."),), Sampling(temperature=0.0), Limits(48)
)
# A package that ends whatever process asks it for its library, except this one.
CRASHING = """
import os, signal
__version__ = "9.9"
XLLAMACPP_VERSION = "{version}"
STATUSES = ("ok",)

def library_path():
    if os.getpid() != {pid}:
        os.write(2, b"zhibei-kernels 9.9: loading\\n")
        os.kill(os.getpid(), signal.SIGILL)
    return __file__
"""


def spec_of(path: Path, **changes: object) -> EngineSpec:
    spec = EngineSpec("llama.cpp", str(path), "smollm2:135m", "generate", 1024, 1, 128, 128, 2, None, "f16", "f16", "auto", 0, 0)
    return replace(spec, speculation="off", **changes)  # type: ignore[arg-type]


async def text_of(events: AsyncIterator[GenerationEvent]) -> str:
    found = [event async for event in events]
    assert isinstance(found[-1], Finished)
    return "".join(event.text for event in found if isinstance(event, TextDelta))


async def ask(spec: EngineSpec, lines: list[str] | None = None) -> tuple[str, Kernels | None]:
    """The answer, and the kernels that it was computed with."""
    engine = await LlamaCppBackend().start(spec, (lines if lines is not None else []).append)
    try:
        return await text_of(engine.chat(ASK)), engine.status().kernels
    finally:
        await engine.close()


@needs_kernels
async def test_the_text_is_the_same_with_them_and_without(smollm2_path: Path) -> None:
    lines: list[str] = []
    text, used = await ask(spec_of(smollm2_path), lines)
    plain, none = await ask(spec_of(smollm2_path, kernels=False))
    assert EXPECTED is not None and used is not None and none is None
    assert (used.level, used.version, used.types) == (EXPECTED.level, EXPECTED.version, EXPECTED.types)
    assert text == plain and len(text) > 20
    assert any(kernels.is_of_them(line) and f"in use, {used.level}" in line for line in lines)


@needs_kernels
async def test_vectors_are_those_of_the_engine_without_them(smollm2_path: Path) -> None:
    vectors = []
    for wanted in (True, False):
        spec = spec_of(smollm2_path, task="embed", pooling="mean", kernels=wanted)
        engine = await LlamaCppBackend().start(spec, lambda line: None)
        try:
            assert (engine.status().kernels is not None) is wanted
            (vector,) = (await engine.embed(EmbeddingRequest(("The sea is wide and old.",)))).vectors
            vectors.append(vector)
        finally:
            await engine.close()
    with_them, without = vectors
    likeness = sum(a * b for a, b in zip(with_them, without, strict=True))
    assert likeness == pytest.approx(1.0, abs=2e-3)


@needs_kernels
def test_ps_shows_them_and_no_kernels_leaves_them_out(smollm2_home: Path, tmp_path: Path) -> None:
    program = Program(tmp_path, {})
    assert EXPECTED is not None and EXPECTED.level is not None
    for wanted in (None, False):
        settings = Settings(load=LoadOptions(ctx_size=512, parallel=1, kernels=wanted))
        with serving(smollm2_home, engine="llama.cpp", settings=settings) as server:
            program.extra["ZHIBEI_PORT"] = str(server.port)
            body = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
            assert httpx.post(server.url + "/v1/chat/completions", json=body, timeout=120).status_code == 200
            (shown,) = json.loads(program("ps", "--json").out)["models"]
            assert (shown["kernels"] or {}).get("level") == (EXPECTED.level if wanted is None else None)
            assert (f"llama.cpp {EXPECTED.level} " in program("ps").out) is (wanted is None)


async def test_an_instruction_that_is_missing_does_not_make_a_model_useless(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "zhibei_kernels"
    package.mkdir()
    (package / "__init__.py").write_text(CRASHING.format(version=metadata.version("xllamacpp"), pid=os.getpid()))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines: list[str] = []
    text, used = await ask(spec_of(smollm2_path), lines)
    plain, _ = await ask(spec_of(smollm2_path, kernels=False))
    assert text == plain
    assert used is not None and used.level is None and used.problem == "the engine crashed while it was loaded with them"
    assert sum("it crashed while it was loaded with them" in line for line in lines) == 1
