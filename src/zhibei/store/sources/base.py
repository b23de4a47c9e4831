"""The contract of a source. Owns the protocol and its values; knows no source and writes nothing.

One contract suite (``tests/contract/sources``) runs each sentence below against every source.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from zhibei.events import Notice, Progress
from zhibei.models import ModelDefaults
from zhibei.refs import ModelName
from zhibei.store.digests import Digest

if TYPE_CHECKING:
    from zhibei.store.options import FetchOptions


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a model at its source. None: the source does not say.

    ``name`` is a harmless path within the model, relative, with ``/`` (``store.filenames.check_relative``); ``role`` is one of
    ``zhibei.models.ROLES``. ``origin`` names the file at the source in full, without secrets, and ``validator`` its version
    there: an ETag, a modification time. ``local_path``: it is on this disk already. ``is_packed``: it comes inside another
    file, about as large, that lies in the workspace for a while.
    """

    name: str
    origin: str
    role: str = "model"
    size_bytes: int | None = None
    digest: Digest | None = None
    validator: str | None = None
    local_path: Path | None = None
    modified_ns: int | None = None
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model at its source: ``source`` is the reference to record, ``name`` the one it gets if the person gives none
    (None: nothing there can be a name).

    ``files`` has the weights first. ``notices`` are for the person, before anything is fetched. ``revision`` names the
    version of the whole where the source has such a thing. ``defaults`` that lie in files of the model are not known here:
    ``Source.read_defaults`` reads them once the files have come.
    """

    source: str
    name: ModelName | None
    files: tuple[RemoteFile, ...]
    licence: str | None = None
    notices: tuple[Notice, ...] = ()
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several forms in which a source has the same model. ``label`` is its quantisation (``Q4_K_M``) or file name."""

    label: str
    size_bytes: int | None
    num_files: int = 1


Chooser = Callable[[tuple[Variant, ...]], Variant]
"""Picks the variant that suits this machine, where the person named none."""


@dataclass(frozen=True, slots=True)
class Hub:
    """How a hub is reached: ``endpoint`` is a URL without a path's trailing slash. The token goes to it and nowhere else.

    ``mirrors`` speak the same protocol and are tried in order when the endpoint cannot be reached.
    """

    endpoint: str
    mirrors: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)


HUBS: Mapping[str, Hub] = {
    "hf": Hub("https://huggingface.co", ("https://hf-mirror.com",)),
    "ms": Hub("https://www.modelscope.cn"),
    "ollama": Hub("https://registry.ollama.ai"),
}
"""The public ones, by the source's word."""


FOUR_BITS = ("Q4_K_M", "Q4_K_L", "Q4_K_XL", "UD-Q4_K_XL", "Q4_K_S", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "MXFP4", "MXFP4_MOE")


def prefer_four_bits(variants: tuple[Variant, ...]) -> Variant:
    """The usual choice: Q4_K_M, else what is next to it; else the largest with fewer bits; else the smallest.

    Of variants that all fit this machine, the last case is the next better one.
    """
    for label in FOUR_BITS:
        for variant in variants:
            if variant.label.upper() == label:
                return variant
    smaller = [variant for variant in variants if _num_bits(variant.label) in (1, 2, 3)]
    if smaller:
        return max(smaller, key=lambda variant: variant.size_bytes or 0)
    return min(variants, key=lambda variant: variant.size_bytes or 0)


def _num_bits(label: str) -> int | None:
    match = re.search(r"(?:^|[-_])(?:I?Q|TQ)(\d)(?!\d)", label.upper())
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source may use: ``workspace`` (made when needed, removed by ``close``), how to fetch, and where hubs are.

    ``pip_environment`` None: the process's own.
    """

    workspace: Path
    fetch: FetchOptions | None = None
    pip_environment: Mapping[str, str] | None = field(default=None, repr=False)
    hubs: Mapping[str, Hub] = field(default_factory=lambda: HUBS)
    choose: Chooser = prefer_four_bits


class StartOver(Exception):
    """The bytes that have come are of no use: the file is no longer the one that was resolved, or cannot be continued.

    Never leaves the store: who reads ``open`` drops what it has, resolves again and begins at the first byte.
    """


class Source(Protocol):
    """A place that models come from. Serves one pull; used by one task at a time, but for ``open``.

    Errors: BadReference for a location that does not parse, ModelNotFound for one that names nothing, Offline where the
    network is needed and missing, SourceError for the rest. Passing failures are tried again inside, a bounded number of
    times. Nothing is written outside the workspace.
    """

    async def resolve(self, location: str) -> RemoteModel:
        """What the location names. Fetches no model; may be called again, and then looks again."""
        ...

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Bytes of a file, fewer only where it ends, to look at a header; None where the source cannot do that cheaply.

        Raises:
            StartOver: the file has changed.
        """
        ...

    def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """What must be done before bytes can flow. The last item, and only that, is the file with all that is now known."""
        ...

    def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes | memoryview, None]:
        """The file's bytes from ``offset`` up to ``end`` (None: to its end), of the version that was resolved.

        Closing at any point frees all. Several may be open at once where ``has_ranges`` says so.

        Raises:
            StartOver: the file has changed, or the source cannot begin at ``offset``.
        """
        ...

    def has_ranges(self, file: RemoteFile) -> bool:
        """Whether several parts of the file can be had at once, and sooner so. Known once it is prepared."""
        ...

    async def unfold(self) -> RemoteModel | None:
        """The whole model, where one packed file turned out to hold several: known once that is prepared, and it comes first.

        None: ``resolve`` named them all.
        """
        ...

    async def read_defaults(self, files: Mapping[str, Path]) -> ModelDefaults | None:
        """What the model wants to be run with, from its files as they have come, by ``RemoteFile.name``; None: nothing."""
        ...

    async def close(self) -> None:
        """Free everything and remove what was made in the workspace. Idempotent."""
        ...
