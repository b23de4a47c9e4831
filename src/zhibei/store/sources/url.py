"""``url:https://…``: a GGUF file behind http(s), with an optional ``#sha256=<hex>``. Continues where it was cut off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zhibei.errors import BadReference, SourceError, StoreError
from zhibei.events import Notice, Progress
from zhibei.models import ModelDefaults
from zhibei.store.digests import Digest
from zhibei.store.failures import is_web_page, web_page
from zhibei.store.fetch import Fetcher, FetchOptions
from zhibei.store.filenames import harmless
from zhibei.store.http_files import HttpFile, Probe
from zhibei.store.naming import name_from_file
from zhibei.store.sources.base import RemoteFile, RemoteModel, SourceContext

_MAGIC = b"GGUF"


class UrlSource:
    """The ``url:`` source. Holds one fetcher, for the URL that was typed."""

    def __init__(self, context: SourceContext) -> None:
        self._options = context.fetch or FetchOptions()
        self._open = AsyncExitStack()
        self._file: HttpFile | None = None
        self._has_ranges = False

    async def resolve(self, location: str) -> RemoteModel:
        """Ask for the first bytes: they tell size, version and whether it is a model at all."""
        url, origin, digest = _parse(location)
        if self._file is None:
            self._file = HttpFile(await self._open.enter_async_context(Fetcher(url, self._options)), url)
        file_name = harmless(unquote(urlsplit(url).path.rpartition("/")[2]) or "model.gguf")
        probe = await self._file.probe(RemoteFile(file_name, origin, digest=digest))
        _check_is_model(probe)
        self._has_ranges = probe.has_ranges
        return RemoteModel(f"url:{origin}", name_from_file(file_name), (probe.file,))

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Bytes by range; None if the server does not do ranges."""
        if not self._has_ranges or file.size_bytes is None:
            return None
        return await self._remote.read(file, offset, length)

    async def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """Nothing to do."""
        yield file

    def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes | memoryview, None]:
        """The bytes; a cut connection is continued."""
        return self._remote.open(file, offset, end)

    def has_ranges(self, file: RemoteFile) -> bool:
        """Whether the server does."""
        return self._has_ranges and file.size_bytes is not None

    async def unfold(self) -> RemoteModel | None:
        """None: ``resolve`` names every file."""
        return None

    async def read_defaults(self, files: Mapping[str, Path]) -> ModelDefaults | None:
        """None: a bare file says nothing."""
        return None

    async def close(self) -> None:
        """Close all connections."""
        await self._open.aclose()
        self._file = None

    @property
    def _remote(self) -> HttpFile:
        assert self._file is not None, "resolve comes first"
        return self._file


def _parse(location: str) -> tuple[str, str, Digest | None]:
    """``(URL to ask, URL to record, digest)``: a login is asked with and not recorded."""
    url, mark, fragment = location.partition("#")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or "\\" in url:
        raise BadReference(
            "{url!r} is not an http or https address.", hint="Write it like https://host/path/model.gguf.", url=url[:200]
        )
    digest = None
    if mark:
        kind, equals, value = fragment.partition("=")
        try:
            if kind != "sha256" or not equals:
                raise StoreError("not a checksum")
            digest = Digest(value.lower())
        except StoreError:
            raise BadReference(
                "The part after # is not a checksum.", hint="Write it like #sha256=<64 hexadecimal digits>."
            ) from None
    return url, parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), digest


def _check_is_model(probe: Probe) -> None:
    """Look at the first bytes."""
    if probe.head.startswith(_MAGIC):
        return
    if is_web_page(probe.content_type) or probe.head.lstrip()[:1] == b"<":
        raise web_page(probe.host)
    raise SourceError(
        "What {host} has there is not a GGUF model file.", hint="Use the address of a .gguf file itself.", host=probe.host
    )
