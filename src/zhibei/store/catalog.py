"""The catalogue: short names, and where the models they name can be had. Owns ``catalog.toml``; fetches nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zhibei.plans import Task
from zhibei.refs import DEFAULT_TAG, ModelName, ModelRef
from zhibei.store.digests import Digest

if TYPE_CHECKING:
    from datetime import date

CATALOG_PATH = Path(__file__).with_name("catalog.toml")
Commercial = bool | Literal["restricted"]
"""Whether a licence lets a model be used in business: yes, no, or within limits that its text sets."""

STRENGTHS = ("code", "maths", "reasoning", "tools", "translation", "vision")
_KNOWN_KEYS = frozenset(
    "name aliases default title licence commercial languages tasks strengths parameters active_parameters context_length sizes"
    " released sources".split()
)


@dataclass(frozen=True, slots=True)
class CatalogSource:
    """One place that has the model. ``size_bytes`` and ``digest`` are of its model file, where they are known."""

    ref: ModelRef
    size_bytes: int | None = None
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model with a short name. ``is_default``: the one meant by the name without a tag.

    ``aliases`` are other names that people write for it. ``strengths`` are of ``STRENGTHS``: what it does better than any
    model does. ``num_active_parameters`` is of a mixture of experts; ``sizes`` are bytes by quantisation, approximate.
    """

    name: ModelName
    title: str
    licence: str
    languages: tuple[str, ...]
    tasks: tuple[Task, ...]
    sources: tuple[CatalogSource, ...]
    is_default: bool = False
    aliases: tuple[ModelName, ...] = ()
    commercial: Commercial | None = None
    strengths: tuple[str, ...] = ()
    num_parameters: int | None = None
    num_active_parameters: int | None = None
    context_length: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    released_on: date | None = None


class Catalog:
    """The entries of a file, which is read on first use.

    Raises:
        ValueError: on first use, if the file is not what it should be; ours is tested to be.
    """

    def __init__(self, path: Path = CATALOG_PATH) -> None:
        self._path = path

    @cached_property
    def entries(self) -> Mapping[ModelName, CatalogEntry]:
        """All entries by name."""
        return _by_name([(entry.name, entry) for entry in map(_entry, _read(self._path)["model"])])

    def find(self, name: ModelName) -> CatalogEntry | None:
        """The entry a person means: by name or alias; a name without a tag means the default one of that name."""
        entry = self.entries.get(name) or self._aliases.get(name)
        if entry is not None or name.tag != DEFAULT_TAG:
            return entry
        return self._defaults.get(name.name)

    @cached_property
    def _aliases(self) -> Mapping[ModelName, CatalogEntry]:
        return _by_name([(alias, entry) for entry in self.entries.values() for alias in entry.aliases])

    @cached_property
    def _defaults(self) -> Mapping[str, CatalogEntry]:
        return {entry.name.name: entry for entry in self.entries.values() if entry.is_default}


def _by_name(rows: list[tuple[ModelName, CatalogEntry]]) -> Mapping[ModelName, CatalogEntry]:
    found = dict(rows)
    if len(found) != len(rows):
        raise ValueError("the catalogue has a name twice")
    return found


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return table


def _entry(table: dict[str, Any]) -> CatalogEntry:
    if not table.keys() <= _KNOWN_KEYS:
        raise ValueError(f"{table.get('name')}: the catalogue has no {', '.join(sorted(table.keys() - _KNOWN_KEYS))}")
    return CatalogEntry(
        name=ModelName.parse(table["name"]),
        title=table["title"],
        licence=table["licence"],
        languages=tuple(table["languages"]),
        tasks=tuple(table["tasks"]),
        sources=tuple(map(_source, table["sources"])),
        is_default=table.get("default", False),
        aliases=tuple(map(ModelName.parse, table.get("aliases", ()))),
        commercial=table.get("commercial"),
        strengths=tuple(table.get("strengths", ())),
        num_parameters=_whole(table.get("parameters")),
        num_active_parameters=_whole(table.get("active_parameters")),
        context_length=table.get("context_length"),
        sizes={label: int(size) for label, size in table.get("sizes", {}).items()},
        released_on=table.get("released"),
    )


def _source(table: dict[str, Any]) -> CatalogSource:
    digest = Digest(table["sha256"]) if "sha256" in table else None
    return CatalogSource(ModelRef.parse(table["ref"]), table.get("size_bytes"), digest)


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
