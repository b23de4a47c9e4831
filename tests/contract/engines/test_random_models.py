"""Every architecture that random models are made of loads in the real engine, generates, and takes the memory its shape says."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.chat import CompletionRequest, EmbeddingRequest
from zhibei.engines import registry
from zhibei.events import Finished
from zhibei.formats.inspect import inspect_path
from zhibei.models import StoredFile, StoredModel
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.planner.plan import plan
from zhibei.plans import EngineSpec, Hardware
from zhibei.workshop.named_shapes import TINY
from zhibei.workshop.random_models import ARCHITECTURES, ENCODERS, write_model
from zhibei.workshop.shapes import Shape

pytest.importorskip("xllamacpp", reason="the engine: pip install 'zhibei[llama-cpp]'")

MACHINE = Hardware("test", 2, 2, 16 << 30, 12 << 30)


def spec_for(shape: Shape, path: Path) -> EngineSpec:
    write_model(shape, path, seed=1)
    stored = StoredModel(
        shape.name, (StoredFile("model", path, path.stat().st_size),), inspect_path(path), "random", datetime.now(timezone.utc)
    )
    task = "embed" if shape.architecture in ENCODERS else "generate"
    spec = plan(stored, MACHINE, "llama.cpp", task, LoadOptions(ctx_size=512, parallel=1, gpu_layers=0)).spec
    assert spec is not None
    return spec


def test_there_is_a_tiny_shape_of_every_architecture() -> None:
    assert {shape.architecture for shape in TINY} == set(ARCHITECTURES)


@pytest.mark.parametrize("shape", [shape for shape in TINY if shape.architecture not in ENCODERS], ids=lambda shape: shape.name)
async def test_it_loads_and_generates(shape: Shape, tmp_path: Path) -> None:
    engine = await registry.create("llama.cpp").start(spec_for(shape, tmp_path / "model.gguf"), lambda line: None)
    try:
        request = CompletionRequest("hello", Sampling(temperature=0.0), Limits(8, ignore_eos=True))
        events = [event async for event in engine.complete(request)]
    finally:
        await engine.close()
    last = events[-1]
    assert isinstance(last, Finished) and last.usage.num_generated_tokens == 8
    # A byte is a token: what begins the text, a space before the word, and its letters.
    assert last.usage.num_prompt_tokens == len("hello") + len("▁".encode()) + 1


@pytest.mark.parametrize("shape", [shape for shape in TINY if shape.architecture in ENCODERS], ids=lambda shape: shape.name)
async def test_it_loads_and_embeds(shape: Shape, tmp_path: Path) -> None:
    engine = await registry.create("llama.cpp").start(spec_for(shape, tmp_path / "model.gguf"), lambda line: None)
    try:
        answer = await engine.embed(EmbeddingRequest(("a b", "c d")))
    finally:
        await engine.close()
    assert [len(vector) for vector in answer.vectors] == [shape.embedding_length] * 2
    assert answer.vectors[0] != answer.vectors[1]
    # Each letter is a token, between the one that begins and the one that ends a text.
    assert answer.num_tokens == 2 * (2 + 2)
