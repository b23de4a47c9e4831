"""``hf:owner/name[@revision][:what]``: models of the Hugging Face Hub, or of a site that speaks as it does.

``what`` is a quantisation (``Q4_K_M``, in either case), the path of a file, or a revision; the grammar in full is in
``store/repositories.py``. One listing tells every file with its size and digest, and the commit that all of them are
fetched from. Gated and private repositories take a token (HF_TOKEN), which goes to the endpoint alone, never to a mirror.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from zhibei.errors import ModelNotFound, SourceError, ZhibeiError
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
    gguf_variants,
    parse_location,
    remote_file,
    source_of,
)
from zhibei.store.sources.base import HUBS, RemoteFile, RemoteModel, SourceContext, StartOver

_WEB = "https://huggingface.co"
_DEFAULT_REVISION = "main"
_LISTING_BYTES = 32 * 1024 * 1024
_MAX_HITS = 100
_FIELDS = ("downloads", "likes", "lastModified", "cardData", "tags", "pipeline_tag", "gated", "siblings")


class HfSource(HubSource):
    """The ``hf:`` source."""

    def __init__(self, context: SourceContext) -> None:
        super().__init__("hf", context, _open(context))

    async def resolve(self, location: str) -> RemoteModel:
        """List the repository and pick the model's files, all of one commit."""
        place = parse_location(location)
        place, listing, picked = await self._pick(place)
        commit = sha1_of(listing.get("sha"))
        repository = place.repository
        files = tuple(
            remote_file(file, role, f"hf:{repository}@{commit or place.revision or _DEFAULT_REVISION}/{file.name}")
            for file, role in picked.files
        )
        notices = (*self._session.notices, *picked.notices)
        return RemoteModel(source_of("hf", location, place, picked), picked.name, files, _licence(listing), notices, commit)

    async def _list(self, place: Location) -> tuple[Mapping[str, object], list[ListedFile]]:
        revision = quote(place.revision or _DEFAULT_REVISION, safe="")
        answer = await self._session.ask(
            f"/api/models/{place.repository}/revision/{revision}?blobs=true", limit_bytes=_LISTING_BYTES
        )
        if not answer.is_good:
            raise explain(answer, place.repository, place.revision or _DEFAULT_REVISION)
        listing = mapping_of(answer.json())
        if listing is None or list_of(listing.get("siblings")) is None:
            raise senseless(answer.host)
        return listing, _files(listing, answer.host)


async def search(words: str, context: SourceContext, limit: int = 20) -> list[HubHit]:
    """Repositories with GGUF files, the most downloaded first.

    Raises:
        SourceError, Offline: the hub cannot be asked.
    """
    query = [("search", words), ("filter", "gguf"), ("sort", "downloads"), ("direction", "-1")]
    query += [("limit", str(max(1, min(limit, _MAX_HITS)))), *(("expand", name) for name in _FIELDS)]
    session = _open(context)
    try:
        answer = await session.ask(f"/api/models?{urlencode(query)}")
        if not answer.is_good:
            raise explain(answer, words, "")
        found = list_of(answer.json())
        if found is None:
            raise senseless(answer.host)
        return [hit for entry in found[:limit] if (hit := _hit(mapping_of(entry) or {})) is not None]
    finally:
        await session.close()


def explain(answer: HubAnswer, repository: str, revision: str, name: str | None = None) -> ZhibeiError:
    """What a refusal of the hub means for a person."""
    values = {"repository": repository, "host": answer.host, "page": f"{_WEB}/{repository}"}
    if answer.code == "GatedRepo":
        return _gated(answer, values)
    if answer.code == "RevisionNotFound":
        return ModelNotFound(
            "{repository} has no revision {revision}.", hint=REVISION_HINT, repository=repository, revision=revision
        )
    if name is not None and (answer.code == "EntryNotFound" or (answer.status == 404 and not answer.code)):
        return ModelNotFound("{repository} has no file {name} any more.", hint=GONE_HINT, repository=repository, name=name)
    if answer.reason == "Access to this resource is disabled.":
        return SourceError(
            "{host} has disabled {repository}.",
            hint="Choose another model: zhibei search",
            host=answer.host,
            repository=repository,
        )
    if answer.status == 401 and answer.had_token and "credentials" in answer.reason.lower():
        return SourceError(
            "{host} does not take the token it was given.",
            hint="Make a new one at https://huggingface.co/settings/tokens and set HF_TOKEN to it, or unset it: "
            "what is open to all needs none.",
            host=answer.host,
        )
    if answer.code == "RepoNotFound" or answer.status in (401, 404):
        hint = "Check its spelling. A private one needs a token that may read it, in HF_TOKEN."
        if answer.is_mirror:
            hint = "Check its spelling. A private one is only at its hub itself: mirrors are given no token."
        return ModelNotFound("{host} has no repository {repository}, or it is private.", hint=hint, **values)
    return _plain(answer)


def _gated(answer: HubAnswer, values: Mapping[str, object]) -> SourceError:
    if answer.is_mirror:
        hint = "Accept its terms at {page}, set HF_TOKEN, and pull when the hub itself can be reached: mirrors get no token."
    elif answer.had_token:
        hint = "Accept its terms at {page} with the account of your token; if you did, its owner may not have let you in yet."
    else:
        hint = "Accept its terms at {page}, make a token at https://huggingface.co/settings/tokens, and set HF_TOKEN to it."
    return SourceError("{repository} is open only to those who accept its terms.", hint=hint, **values)


def _plain(answer: HubAnswer) -> ZhibeiError:
    try:
        check_status(answer.status, answer.host)
    except ZhibeiError as error:
        return error
    return senseless(answer.host)


def _open(context: SourceContext) -> HubSession:
    hub = context.hubs.get("hf", HUBS["hf"])
    return HubSession(
        hub,
        context.fetch or FetchOptions(),
        credentials=bearer(hub.token, "HF_TOKEN"),
        url_of=_path,
        explain=_explain_file,
    )


def _explain_file(answer: HubAnswer, file: RemoteFile) -> ZhibeiError | StartOver:
    """As ``explain``; a commit that was there when it was listed has been replaced since."""
    return StartOver() if answer.code == "RevisionNotFound" else explain(answer, *_origin(file), file.name)


def _origin(file: RemoteFile) -> tuple[str, str]:
    """``(repository, revision)`` that a file was listed in."""
    repository, _, rest = file.origin.removeprefix("hf:").partition("@")
    return repository, rest.removesuffix(f"/{file.name}")


def _path(file: RemoteFile) -> str:
    repository, revision = _origin(file)
    return f"/{repository}/resolve/{quote(revision, safe='')}/{quote(file.name)}"


def _files(listing: Mapping[str, object], host: str) -> list[ListedFile]:
    files = []
    for entry in list_of(listing.get("siblings")) or ():
        sibling = mapping_of(entry) or {}
        name = name_of(sibling.get("rfilename"))
        if name is None:
            raise senseless(host)
        lfs = mapping_of(sibling.get("lfs")) or {}
        digest = sha256_of(lfs.get("sha256"))
        if lfs and digest is None:
            raise senseless(host)
        told = lfs.get("size") if lfs else sibling.get("size")
        size = count_of(told)
        if told is not None and size is None:
            raise senseless(host)
        # What git keeps of a file in LFS is a pointer: its name is not that of the content.
        files.append(ListedFile(name, size, digest, None if lfs else sha1_of(sibling.get("blobId"))))
    return files


def _licence(listing: Mapping[str, object]) -> str | None:
    card = mapping_of(listing.get("cardData")) or {}
    named = texts_of(card.get("license")) or tuple(
        tag.removeprefix("license:") for tag in texts_of(listing.get("tags")) if tag.startswith("license:")
    )
    name = text_of(card.get("license_name"))
    return name if name is not None and named in ((), ("other",)) else ", ".join(named) or None


def _hit(entry: Mapping[str, object]) -> HubHit | None:
    repository = text_of(entry.get("id")) or text_of(entry.get("modelId"))
    if repository is None or "/" not in repository:
        return None
    siblings = (mapping_of(sibling) or {} for sibling in list_of(entry.get("siblings")) or ())
    names = [name for sibling in siblings if (name := text_of(sibling.get("rfilename"))) is not None]
    return HubHit(
        f"hf:{repository}",
        repository.partition("/")[2],
        _licence(entry),
        count_of(entry.get("downloads")),
        count_of(entry.get("likes")),
        text_of(entry.get("lastModified")),
        texts_of(entry.get("pipeline_tag")) + tuple(tag for tag in texts_of(entry.get("tags")) if ":" not in tag),
        gguf_variants(names),
        is_gated=entry.get("gated") not in (None, False, "false"),
    )
