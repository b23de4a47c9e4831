"""What the native routes take. Zhibei's own: a field that is not listed is a mistake, not something to ignore."""

from __future__ import annotations

from typing import Annotated

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
