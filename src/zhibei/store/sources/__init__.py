"""Where models come from. One file per source; the table below names them, and imports one only when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from zhibei.errors import Unsupported
from zhibei.store.sources.base import Source, SourceContext

SOURCES = {
    "hf": "zhibei.store.sources.hf:HfSource",
    "ms": "zhibei.store.sources.modelscope:ModelScopeSource",
    "ollama": "zhibei.store.sources.ollama:OllamaSource",
    "file": "zhibei.store.sources.file:FileSource",
    "pypi": "zhibei.store.sources.pypi:PypiSource",
    "url": "zhibei.store.sources.url:UrlSource",
}


def open_source(kind: str, context: SourceContext) -> Source:
    """The source of a kind, for one pull. The caller closes it.

    Raises:
        Unsupported: there is none of that kind.
    """
    if kind not in SOURCES:
        raise Unsupported(
            "This version cannot pull from {kind}:.",
            hint="It can pull from: {known}.",
            kind=kind,
            known=", ".join(sorted(SOURCES)),
        )
    module, _, name = SOURCES[kind].partition(":")
    return cast(Source, getattr(import_module(module), name)(context))
