"""Repositories of models, as hubs have them: how a location names one, and which of its files are the model.

Pure: takes a listing, gives a choice. Knows no hub and fetches nothing.

Grammar of a location, which ``hf:`` and ``ms:`` share::

    location = owner "/" name [ "@" revision ] [ ":" what ]     owner/name   owner/name:Q4_K_M   owner/name@v1.0:x.gguf
             | owner "/" name "/" path                          owner/name/sub/x.gguf
             | owner "/" name "/" page "/" revision [ "/" path ]   the tail of an address in a browser
    page     = "resolve" | "blob" | "raw" | "tree"
    what     = a quantisation or variant, in either case; else the path of a file; else a revision
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote

from zhibei.errors import BadReference, ModelNotFound, SourceError, Unsupported
from zhibei.events import Notice
from zhibei.i18n import N_
from zhibei.refs import DEFAULT_TAG, ModelName
from zhibei.store.digests import Digest
from zhibei.store.filenames import check_distinct, check_relative
from zhibei.store.naming import name_from_file
from zhibei.store.safetensors_files import INCOMPLETE_HINT, is_of_safetensors, pick_safetensors
from zhibei.store.sources.base import Chooser, RemoteFile, Variant
from zhibei.store.variants import GgufFiles, GgufSet, find_file, find_variant, projector_for, sort_files
from zhibei.units import format_bytes

_HUB_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/-]{0,198}[A-Za-z0-9_-])?", re.ASCII)
_PAGES = frozenset(("resolve", "blob", "raw", "tree"))
_PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".pickle", ".pkl", ".ckpt", ".msgpack", ".h5", ".onnx")
_MAX_SHOWN = 40
REVISION_HINT = N_("Check the revision on the model's page, or leave it out.")
GONE_HINT = N_("It was renamed or removed there meanwhile. Pull again without naming the file.")
_HINT = "Write it like owner/name, owner/name:Q4_K_M, owner/name:file.gguf or owner/name@revision."


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed location. ``revision`` None: the hub's usual one; ``what``: a variant, a file or a revision."""

    repository: str
    revision: str | None = None
    what: str | None = None


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as a hub lists it. ``blob_id`` is the name git gives its content (SHA-1, 40 hexadecimal digits)."""

    name: str
    size_bytes: int | None = None
    digest: Digest | None = None
    blob_id: str | None = None


@dataclass(frozen=True, slots=True)
class Picked:
    """What of a repository is the model: each file with its role, the weights first, and what the person should know.

    ``what`` names the variant where the location did not; None: it did, or there is but one, of no particular kind.
    """

    files: tuple[tuple[ListedFile, str], ...]
    name: ModelName | None
    notices: tuple[Notice, ...] = ()
    what: str | None = None


@dataclass(frozen=True, slots=True)
class HubHit:
    """One repository that a search found. ``ref`` pulls it. None: the hub does not say.

    ``variants`` are the forms it comes in, with sizes where the hub tells them at once; ``updated`` is ISO 8601.
    """

    ref: str
    title: str
    licence: str | None = None
    downloads: int | None = None
    likes: int | None = None
    updated: str | None = None
    tags: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    is_gated: bool = False


class NoSuchVariant(ModelNotFound):
    """The repository has neither a variant nor a file of the name; it may still be a revision."""


def parse_location(text: str) -> Location:
    """Parse by the grammar above.

    Raises:
        BadReference: it does not parse.
    """
    cleaned = text.strip()
    head, colon, what = cleaned.partition(":")
    repository, at, revision = head.partition("@")
    owner, _, rest = repository.partition("/")
    name, slash, tail = rest.partition("/")
    is_good = bool(_HUB_NAME.fullmatch(owner) and _HUB_NAME.fullmatch(name) and ".." not in owner + name)
    if not is_good or (colon and not what) or (at and not is_revision(revision)) or (slash and (at or colon)):
        raise _unparsable(text)
    if slash:
        return _parse_tail(f"{owner}/{name}", tail, text)
    if colon and not (is_revision(what) or _is_path(what)):
        raise _unparsable(text)
    return Location(f"{owner}/{name}", revision or None, what or None)


def is_revision(text: str) -> bool:
    """Whether a branch, tag or commit can be called so."""
    return _REVISION.fullmatch(text) is not None and ".." not in text and "//" not in text


def as_revision(location: Location, missing: NoSuchVariant) -> Location:
    """The location with what was taken for a variant as its revision.

    Raises:
        NoSuchVariant: it can be none; ``missing`` itself.
    """
    if location.revision is not None or location.what is None or not is_revision(location.what):
        raise missing
    return replace(location, revision=location.what, what=None)


def check_listing(files: Iterable[ListedFile]) -> tuple[ListedFile, ...]:
    """The files of a listing that a pull could take, their names checked before anything is done with them.

    Raises:
        SourceError: one has a name that is not harmless, or two have the same.
    """
    found = tuple(file for file in files if _is_weights(file.name) or is_of_safetensors(file.name))
    for file in found:
        check_relative(file.name)
    check_distinct(file.name for file in found)
    return found


def pick(location: Location, kind: str, files: Iterable[ListedFile], choose: Chooser) -> Picked:
    """The files of the model that a location names. ``kind`` is the source's word; ``choose`` decides where nothing is named.

    Raises:
        NoSuchVariant: the repository has no such variant or file.
        ModelNotFound: it has no model, or not all of one.
        Unsupported: only kinds of files that are not taken.
        SourceError: a name that is not allowed.
    """
    listed = tuple(files)
    checked = {file.name: file for file in check_listing(listed)}
    gguf = sort_files({name: file.size_bytes for name, file in checked.items()})
    has_weights = any(name.endswith(".safetensors") for name in checked)
    is_gguf = bool(gguf.variants or (location.what and find_file(gguf, location.what)))
    if has_weights and (not is_gguf or (location.what or "").casefold() == "safetensors"):
        return _pick_safetensors(location, checked)
    if gguf.all or gguf.incomplete:
        return _pick_gguf(location, kind, gguf, checked, choose)
    raise _nothing(location, listed)


def source_of(kind: str, typed: str, location: Location, picked: Picked) -> str:
    """The reference to record for a location, as it was typed and as it was understood.

    It names the variant, so that the same one is taken on another day and on another machine.
    """
    if picked.what is None:
        return f"{kind}:{typed.strip()}"
    revision = f"@{location.revision}" if location.revision is not None else ""
    return f"{kind}:{location.repository}{revision}:{picked.what}"


def gguf_variants(names: Iterable[str]) -> tuple[Variant, ...]:
    """The GGUF variants among names of a repository, of unknown size; names that are not allowed do not count."""
    good: dict[str, int | None] = {}
    for name in names:
        try:
            check_relative(name)
        except SourceError:
            continue
        good[name] = None
    return tuple(replace(found.variant, size_bytes=None) for found in sort_files(good).variants)


def remote_file(file: ListedFile, role: str, origin: str) -> RemoteFile:
    """A listed file as the contract of sources has it. Its validator is the blob id where there is no SHA-256."""
    validator = f"git:{file.blob_id}" if file.digest is None and file.blob_id is not None else None
    return RemoteFile(file.name, origin, role, file.size_bytes, file.digest, validator)


def _pick_gguf(location: Location, kind: str, gguf: GgufFiles, checked: Mapping[str, ListedFile], choose: Chooser) -> Picked:
    chosen = _named(location, gguf) if location.what is not None else None
    notices: list[Notice] = []
    if chosen is None:
        if not gguf.variants:
            raise _no_variants(location, gguf)
        chosen = gguf.variants[0]
        if len(gguf.variants) > 1:
            choice = choose(tuple(found.variant for found in gguf.variants))
            chosen = next((found for found in gguf.variants if found.label == choice.label), chosen)
            notices.append(_chosen_notice(location, chosen, gguf))
    files = [(checked[name], "shard" if len(chosen.names) > 1 else "model") for name in chosen.names]
    is_main = chosen in gguf.variants
    projector = projector_for(chosen, gguf.projectors) if is_main else None
    if projector is not None:
        files += [(checked[name], "projector") for name in projector.names]
        notices.append(
            Notice(
                "{repository} also takes pictures or sound; {name} ({size}), which it needs for that, comes along.",
                (("repository", location.repository), ("name", projector.names[0]), ("size", _size(projector.size_bytes))),
            )
        )
    if gguf.drafts and is_main:
        notices.append(
            Notice(
                "{repository} has a draft model too, which can make this one faster. To get it: zhibei pull {ref}",
                (("repository", location.repository), ("ref", f"{kind}:{location.repository}:{gguf.drafts[0].names[0]}")),
            )
        )
    what = _what_finds(chosen, gguf) if location.what is None else None
    return Picked(tuple(files), _gguf_name(location, chosen, gguf), tuple(notices), what)


def _what_finds(chosen: GgufSet, gguf: GgufFiles) -> str | None:
    """What to write after the repository to get a variant again: its label, else its file."""
    if chosen.quant is None and len(gguf.variants) == 1:
        return None
    for what in (chosen.label, chosen.names[0]):
        is_plain = (is_revision(what) or _is_path(what)) and what.casefold() != "safetensors"
        if is_plain and (find_variant(gguf.variants, what) or find_file(gguf, what)) == chosen:
            return what
    return None


def _named(location: Location, gguf: GgufFiles) -> GgufSet:
    what = location.what or ""
    found = find_variant(gguf.variants, what) or find_file(gguf, what)
    if found is not None:
        return found
    if any(label.casefold() == what.casefold() for label in gguf.incomplete):
        raise ModelNotFound(
            "{repository} has only some of the files of {what}.", hint=INCOMPLETE_HINT, repository=location.repository, what=what
        )
    raise NoSuchVariant(
        "{repository} has no {what}.",
        hint="It has: {known}.",
        repository=location.repository,
        what=what,
        known=_list([found.variant for found in gguf.variants] or [found.variant for found in gguf.all]),
    )


def _no_variants(location: Location, gguf: GgufFiles) -> ModelNotFound:
    if gguf.incomplete:
        return ModelNotFound(
            "{repository} has only some of the files of {what}.",
            hint=INCOMPLETE_HINT,
            repository=location.repository,
            what=", ".join(gguf.incomplete),
        )
    return ModelNotFound(
        "{repository} has GGUF files, but none is a model by itself.",
        hint="It has: {known}.",
        repository=location.repository,
        known=_list([found.variant for found in gguf.all]),
    )


def _chosen_notice(location: Location, chosen: GgufSet, gguf: GgufFiles) -> Notice:
    others = [found.variant for found in gguf.variants if found is not chosen]
    return Notice(
        "{repository} comes in {num_variants} variants; taking {label} ({size}). Others: {others}.",
        (
            ("repository", location.repository),
            ("num_variants", len(gguf.variants)),
            ("label", chosen.label),
            ("size", _size(chosen.size_bytes)),
            ("others", _list(others)),
        ),
    )


def _pick_safetensors(location: Location, checked: Mapping[str, ListedFile]) -> Picked:
    files, label, labels = pick_safetensors(location.repository, location.what, tuple(checked))
    if files is None:
        raise NoSuchVariant(
            "{repository} has no {what}.",
            hint="It has: {known}.",
            repository=location.repository,
            what=location.what,
            known=", ".join(labels[:_MAX_SHOWN]),
        )
    return Picked(tuple((checked[name], role) for name, role in files), _model_name(location, label))


def _nothing(location: Location, listed: tuple[ListedFile, ...]) -> Unsupported | ModelNotFound:
    if any(file.name.lower().endswith(_PICKLE_ENDINGS) for file in listed):
        return Unsupported(
            "{repository} has its weights only in formats that can carry programs or that Zhibei does not run.",
            hint="Look for a repository of the same model with GGUF or safetensors files: zhibei search {name}",
            repository=location.repository,
            name=location.repository.partition("/")[2],
        )
    return ModelNotFound(
        "{repository} has no model files: neither GGUF nor safetensors.",
        hint="Look for another: zhibei search {name}",
        repository=location.repository,
        name=location.repository.partition("/")[2],
    )


def _gguf_name(location: Location, chosen: GgufSet, gguf: GgufFiles) -> ModelName | None:
    """``owner/Qwen2.5-7B-Instruct-GGUF`` and ``Q4_K_M`` → ``qwen2.5-7b-instruct:q4_k_m``."""
    if chosen not in gguf.variants or (chosen.quant is not None and chosen.label != chosen.quant):
        return name_from_file(f"{chosen.stem}.gguf")
    if chosen.quant is None and len(gguf.variants) == 1:
        return _model_name(location, DEFAULT_TAG)
    return _model_name(location, chosen.label)


def _model_name(location: Location, label: str) -> ModelName | None:
    stem = re.sub(r"[-_.]gguf$", "", location.repository.partition("/")[2].lower())
    segment = re.sub(r"[^a-z0-9._-]+", "-", stem)[:64].strip("._-")
    tag = re.sub(r"[^a-z0-9._-]+", "-", label.lower())[:64].strip("._-")
    try:
        return ModelName.parse(f"{segment}:{tag or DEFAULT_TAG}")
    except BadReference:
        return None


def _parse_tail(repository: str, tail: str, text: str) -> Location:
    """What follows the repository in an address of a browser, or a file's path."""
    path = tail.partition("?")[0].partition("#")[0].rstrip("/")
    page, _, rest = path.partition("/")
    if page not in _PAGES:
        found = Location(repository, None, unquote(path) or None)
    else:
        revision, _, name = rest.partition("/")
        found = Location(repository, unquote(revision), unquote(name) or None)
    is_good = found.revision is None or is_revision(found.revision)
    if not is_good or (found.what is not None and not _is_path(found.what)):
        raise _unparsable(text)
    return found


def _is_path(text: str) -> bool:
    try:
        check_relative(text)
    except SourceError:
        return False
    return True


def _is_weights(name: str) -> bool:
    return name.lower().endswith((".gguf", ".safetensors"))


def _list(variants: Iterable[Variant]) -> str:
    shown = [f"{variant.label} ({_size(variant.size_bytes)})" for variant in variants]
    return ", ".join(shown[:_MAX_SHOWN]) + (" …" if len(shown) > _MAX_SHOWN else "")


def _size(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else format_bytes(size_bytes)


def _unparsable(text: str) -> BadReference:
    return BadReference("{text!r} names no repository.", hint=_HINT, text=text[:200])
