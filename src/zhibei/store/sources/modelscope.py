"""``ms:owner/name[@revision][:what]``: models of ModelScope. The grammar is that of ``hf:`` (``store/repositories.py``).

The listing tells size and SHA-256 of every file, so that what comes is of that version even where a branch moves on.
A private repository takes a token (MODELSCOPE_API_TOKEN), which goes to the endpoint alone.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from urllib.parse import urlencode

from zhibei.errors import ModelNotFound, SourceError, ZhibeiError
from zhibei.events import Notice
from zhibei.store.failures import check_status
from zhibei.store.fetch import FetchOptions
from zhibei.store.hub_fields import count_of, list_of, mapping_of, name_of, sha1_of, sha256_of, text_of, texts_of
from zhibei.store.hub_session import HubAnswer, HubSession, bearer, senseless
from zhibei.store.hub_source import HubSource
from zhibei.store.repositories import (
    GONE_HINT,
    REVISION_HINT,
    HubHit,
    ListedFile,
    Location,
    parse_location,
    remote_file,
    source_of,
)
from zhibei.store.sources.base import HUBS, RemoteFile, RemoteModel, SourceContext

_WEB = "https://www.modelscope.cn"
_DEFAULT_REVISION = "master"
_LISTING_BYTES = 32 * 1024 * 1024
_MOST_LISTED = 3000
_MAX_HITS = 50
_WEB_TAIL = re.compile(r"(?:models/(?=[^/]+/[^/]))?(?P<rest>[^/]+/[^/]+?)(?:/(?:summary|files|file/view))?/?", re.ASCII)


class ModelScopeSource(HubSource):
    """The ``ms:`` source."""

    def __init__(self, context: SourceContext) -> None:
        super().__init__("ms", context, _open(context))

    async def resolve(self, location: str) -> RemoteModel:
        """List the repository and pick the model's files."""
        tail = _WEB_TAIL.fullmatch(location.strip())
        place = parse_location(tail["rest"] if tail else location.strip().removeprefix("models/"))
        place, data, picked = await self._pick(place)
        revision = place.revision or _DEFAULT_REVISION
        origin = f"ms:{place.repository}@{revision}"
        files = tuple(remote_file(file, role, f"{origin}/{file.name}") for file, role in picked.files)
        notices = (*self._session.notices, *picked.notices, *_truncated(place, data))
        licence = await self._licence(place.repository)
        return RemoteModel(
            source_of("ms", location, place, picked), picked.name, files, licence, notices, _commit(data) or revision
        )

    async def _list(self, place: Location) -> tuple[Mapping[str, object], list[ListedFile]]:
        revision = place.revision or _DEFAULT_REVISION
        query = urlencode({"Revision": revision, "Recursive": "True"})
        answer = await self._session.ask(f"/api/v1/models/{place.repository}/repo/files?{query}", limit_bytes=_LISTING_BYTES)
        try:
            data = _data(answer, place.repository)
        except ModelNotFound:
            # The same answer for a repository and for a revision that is not there.
            if place.revision is None or not (await self._session.ask(f"/api/v1/models/{place.repository}")).is_good:
                raise
            raise _no_revision(place.repository, revision) from None
        files = data.get("Files")
        if files is None:
            # Another way of saying so: no failure, and no files.
            raise _no_revision(place.repository, revision)
        entries = list_of(files)
        if entries is None:
            raise senseless(answer.host)
        return data, _files([mapping_of(entry) or {} for entry in entries], answer.host)

    async def _licence(self, repository: str) -> str | None:
        """The licence, from the repository's own entry; a pull does not fail for want of it."""
        with contextlib.suppress(SourceError, ModelNotFound):
            answer = await self._session.ask(f"/api/v1/models/{repository}")
            return text_of(_data(answer, repository).get("License"))
        return None


async def search(words: str, context: SourceContext, limit: int = 20) -> list[HubHit]:
    """Repositories with GGUF files by their name, the most downloaded first.

    Raises:
        SourceError, Offline: the hub cannot be asked.
    """
    asked = words if "gguf" in words.lower() else f"{words} gguf"
    size = max(1, min(limit, _MAX_HITS))
    session = _open(context)
    try:
        query = urlencode({"search": asked, "sort": "downloads", "page_number": 1, "page_size": size})
        answer = await session.ask(f"/openapi/v1/models?{query}")
        if not answer.is_good:
            raise explain(answer, words)
        found = mapping_of(answer.json()) or {}
        models = list_of((mapping_of(found.get("data")) or {}).get("models"))
        if models is None:
            raise senseless(answer.host)
        return [hit for entry in models[:limit] if (hit := _hit(mapping_of(entry) or {})) is not None]
    finally:
        await session.close()


def explain(answer: HubAnswer, repository: str, name: str | None = None) -> ZhibeiError:
    """What a refusal of the hub means for a person."""
    values = {"host": answer.host, "repository": repository, "page": f"{_WEB}/models/{repository}"}
    if answer.status == 404 and name is not None:
        return ModelNotFound("{repository} has no file {name} any more.", hint=GONE_HINT, repository=repository, name=name)
    if answer.status == 404:
        return ModelNotFound(
            "{host} has no repository {repository}, or it is private.",
            hint="Check its spelling. A private one needs a token that may read it, in MODELSCOPE_API_TOKEN.",
            **values,
        )
    if answer.status in (401, 403) and answer.had_token:
        return SourceError(
            "{host} does not let the token it was given read {repository}.",
            hint="See {page}: its terms may have to be accepted. The token is in MODELSCOPE_API_TOKEN.",
            **values,
        )
    if answer.status in (401, 403):
        return SourceError(
            "{host} shows {repository} only to those who are logged in.",
            hint="See {page} for its terms, and set MODELSCOPE_API_TOKEN to a token of yours.",
            **values,
        )
    try:
        check_status(answer.status, answer.host)
    except ZhibeiError as error:
        return error
    return senseless(answer.host)


def _open(context: SourceContext) -> HubSession:
    hub = context.hubs.get("ms", HUBS["ms"])
    credentials = bearer(hub.token, "MODELSCOPE_API_TOKEN")
    if hub.token is not None:
        # Parts of the hub know only the cookie that a browser would have.
        credentials["Cookie"] = f"m_session_id={hub.token.strip()}"
    return HubSession(
        hub,
        context.fetch or FetchOptions(),
        credentials=credentials,
        url_of=_path,
        explain=lambda answer, file: explain(answer, _origin(file)[0], file.name),
    )


def _origin(file: RemoteFile) -> tuple[str, str]:
    """``(repository, revision)`` that a file was listed in."""
    repository, _, rest = file.origin.removeprefix("ms:").partition("@")
    return repository, rest.removesuffix(f"/{file.name}")


def _path(file: RemoteFile) -> str:
    repository, revision = _origin(file)
    return f"/api/v1/models/{repository}/repo?{urlencode({'Revision': revision, 'FilePath': file.name})}"


def _data(answer: HubAnswer, repository: str) -> Mapping[str, object]:
    """What an answer carries. Some refusals come as a success whose ``Code`` is that of a failure."""
    if not answer.is_good:
        raise explain(answer, repository)
    body = mapping_of(answer.json()) or {}
    code = count_of(body.get("Code"))
    if body.get("Success") is False and code is not None:
        raise explain(replace(answer, status=code if 400 <= code < 500 else 404), repository)
    data = mapping_of(body.get("Data"))
    if data is None:
        raise senseless(answer.host)
    return data


def _no_revision(repository: str, revision: str) -> ModelNotFound:
    return ModelNotFound("{repository} has no revision {revision}.", hint=REVISION_HINT, repository=repository, revision=revision)


def _files(entries: list[Mapping[str, object]], host: str) -> list[ListedFile]:
    files = []
    for entry in entries:
        if entry.get("Type") == "tree":
            continue
        name = name_of(entry.get("Path"))
        promised, told = entry.get("Sha256"), entry.get("Size")
        digest, size = sha256_of(promised), count_of(told)
        is_large = entry.get("IsLFS") is True
        if name is None or (digest is None and (promised or is_large)) or (size is None and told is not None):
            raise senseless(host)
        files.append(ListedFile(name, size, digest))
    return files


def _commit(data: Mapping[str, object]) -> str | None:
    """The commit of the listing: named in full, or known by its first digits from the files that it changed."""
    latest = mapping_of(data.get("LatestCommitter")) or {}
    commit, short = sha1_of(latest.get("Id")), text_of(latest.get("ShortId"))
    if commit is not None or short is None or len(short) < 7:
        return commit
    entries = (mapping_of(entry) or {} for entry in list_of(data.get("Files")) or ())
    return next((found for entry in entries if (found := sha1_of(entry.get("Revision"))) and found.startswith(short)), None)


def _truncated(place: Location, data: Mapping[str, object]) -> tuple[Notice, ...]:
    if len(list_of(data.get("Files")) or ()) < _MOST_LISTED:
        return ()
    values = (("repository", place.repository), ("num_files", _MOST_LISTED))
    return (Notice("{repository} has more than the {num_files} files that its hub lists; some are not seen.", values),)


def _hit(entry: Mapping[str, object]) -> HubHit | None:
    repository = text_of(entry.get("id"))
    if repository is None or "/" not in repository:
        return None
    return HubHit(
        f"ms:{repository}",
        text_of(entry.get("display_name")) or repository.partition("/")[2],
        text_of(entry.get("license")),
        count_of(entry.get("downloads")),
        count_of(entry.get("likes")),
        _moment(entry.get("last_modified")),
        texts_of(entry.get("tasks")) + texts_of(entry.get("tags")),
        is_gated=bool(entry.get("gated")),
    )


def _moment(value: object) -> str | None:
    """A time as ISO 8601, from that or from seconds since 1970."""
    seconds = count_of(value)
    if seconds is None or seconds > 2**33:
        return text_of(value)
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
