"""One model's place in an Ollama registry: its manifest, its blobs, and the token that the registry may want first.

The protocol is that of container registries (github.com/opencontainers/distribution-spec; for tokens
distribution.github.io/distribution/spec/auth/token). A token is asked for, and goes to, the registry's own origin alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from zhibei.errors import DigestMismatch, ModelNotFound, SourceError
from zhibei.store.digests import Digest
from zhibei.store.failures import check_encoding, check_status
from zhibei.store.fetch import Fetcher
from zhibei.store.http_files import HttpFile
from zhibei.store.ollama_manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, MAX_TEXT_BYTES, Layer, decode_object

_CHALLENGE = re.compile(r'([a-z]+)="([^"]*)"', re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}", re.ASCII)


class OllamaRegistry:
    """Asks a registry for one model. ``repository`` is ``namespace/name``; the fetcher is for the endpoint."""

    def __init__(self, fetcher: Fetcher, endpoint: str, repository: str) -> None:
        self._fetcher = fetcher
        self._endpoint = endpoint
        self._base = f"{endpoint}/v2/{repository}"
        self._credentials: dict[str, str] = {}

    async def read_manifest(self, tag: str, model: str) -> bytes:
        """The manifest of a tag, as it came; ``model`` is how messages name it.

        Raises:
            ModelNotFound: there is none.
        """
        try:
            return await self._ask(f"{self._base}/manifests/{tag}", {"Accept": MANIFEST_TYPE}, MAX_MANIFEST_BYTES)
        except ModelNotFound as error:
            raise ModelNotFound(
                "{host} has no model {model}.", hint="Check the name and the tag.", host=_host(self._endpoint), model=model
            ) from error

    async def read_blob(self, layer: Layer) -> bytes:
        """A small blob, checked.

        Raises:
            DigestMismatch: it is not what the manifest says.
        """
        raw = await self._ask(f"{self._base}/blobs/{layer.digest}", {}, MAX_TEXT_BYTES)
        if hashlib.sha256(raw).hexdigest() != layer.digest.hex:
            raise DigestMismatch(
                "{name} is not the file that the registry announced.",
                hint="Pull again. If it stays so, the file at the source has been changed or the network alters it.",
                name=layer.name,
            )
        return raw

    def blob(self, digest: Digest) -> HttpFile:
        """A blob, to be read from where the registry sends its readers."""
        return HttpFile(self._fetcher, f"{self._base}/blobs/{digest}", self._credentials)

    async def _ask(self, url: str, headers: Mapping[str, str], limit_bytes: int) -> bytes:
        """A small answer. Where the registry wants a token first, the one it gives to everybody."""

        async def once() -> bytes | str:
            async with self._fetcher.get(url, headers, self._credentials) as answer:
                if answer.status == 401 and not self._credentials:
                    return answer.headers.get("WWW-Authenticate", "")
                check_status(answer.status, answer.host)
                check_encoding(answer.headers, answer.host)
                return await answer.whole(limit_bytes)

        found = await self._fetcher.persist(once)
        if isinstance(found, str):
            self._credentials = {"Authorization": f"Bearer {await self._fetch_token(found)}"}
            return await self._ask(url, headers, limit_bytes)
        return found

    async def _fetch_token(self, challenge: str) -> str:
        """The token for everybody. It is asked of the registry itself, whatever place the challenge names."""
        realm, query = _parse_challenge(challenge, self._endpoint)
        _, raw = await self._fetcher.read_small(f"{realm}?{urlencode(query)}" if query else realm, limit_bytes=MAX_TEXT_BYTES)
        answer = decode_object(raw, MAX_TEXT_BYTES, "the token")
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise _needs_login(self._endpoint)
        return token


def _parse_challenge(challenge: str, endpoint: str) -> tuple[str, dict[str, str]]:
    """``(address to ask for a token, its query)`` of a WWW-Authenticate header.

    Raises:
        SourceError: it names another place than the registry's own, or nothing that makes sense.
    """
    scheme, _, rest = challenge[:4096].partition(" ")
    fields = dict(_CHALLENGE.findall(rest))
    realm = fields.get("realm", "")
    if scheme.lower() != "bearer" or not realm:
        raise _needs_login(endpoint)
    if _origin(realm) is None or _origin(realm) != _origin(endpoint):
        raise SourceError(
            "{host} wants a token fetched from another server ({realm}), which is refused.",
            hint="It may be a private model, which needs a login that is not supported.",
            host=_host(endpoint),
            realm=realm[:100],
        )
    return realm.partition("#")[0].partition("?")[0], {key: fields[key] for key in ("service", "scope") if key in fields}


def _origin(url: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or "@" in parts.netloc or "\\" in url:
        return None
    return parts.scheme, parts.hostname, port


def _needs_login(endpoint: str) -> SourceError:
    return SourceError(
        "{host} does not give this model to everybody.",
        hint="It may be a private model, which needs a login that is not supported.",
        host=_host(endpoint),
    )


def _host(endpoint: str) -> str | None:
    return urlsplit(endpoint).hostname
