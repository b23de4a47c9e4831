"""Which sources to try for a reference, in which order, and what is known beforehand. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from zhibei.errors import ModelNotFound
from zhibei.refs import ModelName, ModelRef
from zhibei.store.catalog import Catalog, CatalogEntry
from zhibei.store.digests import Digest

_HUBS = ("hf", "ms")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get what was asked for, and what is known about it beforehand.

    ``may_replace``: the name belongs to the catalogue, so that what it names may take the place of another. ``is_second``: to
    be gone only if the way before leads to a host that cannot be reached.
    """

    ref: ModelRef
    name: ModelName | None
    size_bytes: int | None = None
    digest: Digest | None = None
    licence: str | None = None
    may_replace: bool = False
    is_second: bool = False


def ways_to(ref: ModelRef, name: ModelName | None, catalog: Catalog) -> tuple[Way, ...]:
    """The ways to a reference, best first.

    Raises:
        ModelNotFound: a name that the catalogue does not have.
    """
    if ref.source is not None:
        return (Way(ref, name), *_instead_of(ref, name, catalog))
    entry = catalog.find(ref.name)
    if entry is None:
        raise ModelNotFound(
            "There is no model {name}, neither here nor in the catalogue.",
            hint="Look for it: zhibei search {name}; or name a source, as in hf:owner/name, ollama:name or ./model.gguf.",
            name=str(ref),
        )
    return _of_entry(entry, name or entry.name, may_replace=name is None)


def is_closer(source: str, ref: str) -> bool:
    """Whether a recorded source is what a reference names, or a variant of it: ``hf:owner/name:Q4_K_M`` of ``hf:owner/name``."""
    return source == ref or bool(variants_of(ref, (source,)))


def variants_of(ref: str, sources: Iterable[str]) -> frozenset[str]:
    """The labels of the variants that recorded sources name of a repository; none where the reference names one itself.

    A single file is no variant: it may be a draft or a projector.
    """
    hub, _, location = ref.partition(":")
    if hub not in _HUBS or ":" in location:
        return frozenset()
    labels = (source[len(ref) + 1 :] for source in sources if source.startswith(f"{ref}:"))
    return frozenset(label for label in labels if not label.lower().endswith(".gguf"))


def rivals(ways: tuple[Way, ...]) -> tuple[Way, ...]:
    """The ways over hubs of which the one that answers sooner may be taken; none if there are not two."""
    found = tuple(way for way in ways if way.ref.source in _HUBS and not way.is_second)
    return found if len(found) > 1 else ()


def with_first(ways: tuple[Way, ...], hub: str) -> tuple[Way, ...]:
    """The same ways, those of one hub before those of the other; the rest stay where they are."""
    hubs = iter(sorted(rivals(ways), key=lambda way: way.ref.source != hub))
    chosen = set(rivals(ways))
    return tuple(next(hubs) if way in chosen else way for way in ways)


def _of_entry(entry: CatalogEntry, name: ModelName, *, may_replace: bool) -> tuple[Way, ...]:
    return tuple(Way(source.ref, name, source.size_bytes, source.digest, entry.licence, may_replace) for source in entry.sources)


def _instead_of(ref: ModelRef, name: ModelName | None, catalog: Catalog) -> tuple[Way, ...]:
    """Where else a hub's repository can be had: as the catalogue has it, else under the same name at the other hub."""
    if ref.source not in _HUBS:
        return ()
    for entry in catalog.entries.values():
        if any(source.ref == ref for source in entry.sources):
            others = _of_entry(entry, name or entry.name, may_replace=False)
            return tuple(replace(way, is_second=True) for way in others if way.ref != ref)
    if "@" in ref.location:
        return ()
    other = "ms" if ref.source == "hf" else "hf"
    return (Way(ModelRef(other, ref.location), name, is_second=True),)
