"""Vectors as Ollama gives them: of length one, cut to fewer dimensions where that is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson

from zhibei.app import App
from zhibei.chat import EmbeddingRequest, Embeddings
from zhibei.engines.base import Engine
from zhibei.errors import Unsupported
from zhibei.server import generation
from zhibei.server.ask import Ask
from zhibei.server.ollama.replies import Course
from zhibei.server.ollama.translate import Asked
from zhibei.server.shortening import shortened_inputs

_TOLERANCE = 1e-4


async def embed(app: App, ask: Ask, asked: Asked, request: EmbeddingRequest, course: Course, *, cuts: bool) -> Embeddings:
    """The vectors; without any input the model is only loaded. An empty text has no vector, as Ollama has it.

    Args:
        cuts: the end of a text that is too long is left out; otherwise it is an error.
    """

    async def prepare(engine: Engine, wanted: EmbeddingRequest) -> EmbeddingRequest:
        course.loaded()
        if not cuts:
            return wanted
        shorter = await shortened_inputs(engine, wanted, engine.spec.ctx_size)
        course.cut = {"tokens": shorter.num_cut_tokens} if shorter.num_cut_tokens else {}
        return shorter.request

    options = asked.options
    if not request.inputs:
        async with generation.lease(app, ask, asked.model, options, "embed"):
            course.loaded()
        return Embeddings((), 0)
    return await generation.embed(app, ask, asked.model, request, options, prepare)


def embed_body(found: Embeddings, model: str, course: Course, dimensions: int | None) -> bytes:
    """The answer of /api/embed. ``dimensions``: so many of the first are kept, and made of length one again.

    Raises:
        Unsupported: the vectors have fewer.
    """
    length = len(found.vectors[0]) if found.vectors else 0
    if dimensions is not None and found.vectors and dimensions > length:
        raise Unsupported(
            "This model's vectors have {length} dimensions, not {wanted}.",
            hint="Leave out dimensions.",
            param="dimensions",
            length=length,
            wanted=dimensions,
        )
    vectors = [_normalised(vector[:dimensions] if dimensions is not None else vector) for vector in found.vectors]
    body: dict[str, object] = {"model": model, "embeddings": vectors, **course.durations()}
    body["prompt_eval_count"] = found.num_tokens
    if course.cut:
        body["zhibei"] = {"cut": dict(course.cut)}
    return orjson.dumps(body)


def one_body(found: Embeddings) -> bytes:
    """The answer of /api/embeddings."""
    return orjson.dumps({"embedding": _normalised(found.vectors[0]) if found.vectors else []})


def _normalised(vector: Sequence[float]) -> Sequence[float]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    if length == 0.0 or abs(length - 1.0) < _TOLERANCE:
        return vector
    return [value / length for value in vector]
