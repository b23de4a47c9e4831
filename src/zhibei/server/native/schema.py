"""What the native routes take. Zhibei's own: a field that is not listed is a mistake, not something to ignore."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zhibei.server.body import Extension
from zhibei.server.loading import INT32_MAX, LoadBody

Name = Annotated[str, Field(min_length=1, max_length=2048)]


class PullBody(Extension):
    """``POST /zhibei/v1/pull``."""

    ref: Name
    name: Name | None = None
    copy_file: bool = False


class VerifyBody(Extension):
    """``POST /zhibei/v1/verify``."""

    names: list[Name] = Field(default_factory=list, max_length=10_000)


class EmptyBody(Extension):
    """``POST /zhibei/v1/prune``."""


class NameBody(Extension):
    """``POST /zhibei/v1/repair`` and ``/update``."""

    name: Name


class CopyBody(Extension):
    """``POST /zhibei/v1/models/copy``."""

    source: Name
    target: Name


class StopBody(Extension):
    """``POST /zhibei/v1/stop``."""

    name: Name


class ModelBody(Extension):
    """What the requests on a model have."""

    model: Name
    keep_alive: str | float | None = None
    load: LoadBody | None = None


class TokenizeBody(ModelBody):
    """``POST /zhibei/v1/tokenize``."""

    text: str


class DetokenizeBody(ModelBody):
    """``POST /zhibei/v1/detokenize``."""

    tokens: list[Annotated[int, Field(ge=0, le=INT32_MAX)]]


class LoadModelBody(ModelBody):
    """``POST /zhibei/v1/load``."""

    task: Literal["generate", "embed", "rerank"] = "generate"


class PlanBody(Extension):
    """``POST /zhibei/v1/plan``."""

    model: Name
    task: Literal["generate", "embed", "rerank"] = "generate"
    load: LoadBody | None = None


Purpose = Literal["chat", "code", "translate", "rag", "embed", "roleplay", "vision", "reasoning", "rerank"]
Machine = Annotated[str, Field(min_length=1, max_length=500)]


class FitBody(Extension):
    """``POST /zhibei/v1/fit``. ``hardware``: a described machine instead of the server's."""

    reference: Name
    hardware: Machine | None = None
    engine: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    purpose: Purpose | None = None
    load: LoadBody | None = None


class RecommendBody(Extension):
    """``POST /zhibei/v1/recommend``. ``hardware``: a described machine instead of the server's."""

    purpose: Purpose = "chat"
    language: Annotated[str, Field(min_length=2, max_length=20)] | None = None
    commercial: bool = False
    min_tokens_per_s: float | None = Field(None, ge=0, le=100_000)
    ctx_size: int | None = Field(None, ge=256, le=1 << 24)
    hardware: Machine | None = None
    limit: int = Field(8, ge=1, le=100)
