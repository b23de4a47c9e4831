"""The catalogue: short names, and where the models they name can be had. Owns ``catalog.toml``; fetches nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zhibei.plans import Task
from zhibei.refs import DEFAULT_TAG, ModelName, ModelRef
from zhibei.store.digests import Digest

CATALOG_PATH = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, slots=True)
class CatalogSource:
    """One place that has the model. ``size_bytes`` and ``digest`` are of its model file, where they are known."""

    ref: ModelRef
    size_bytes: int | None = None
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model with a short name. ``is_default``: the one meant by the name without a tag."""

    name: ModelName
    title: str
    licence: str
    languages: tuple[str, ...]
    tasks: tuple[Task, ...]
    sources: tuple[CatalogSource, ...]
    is_default: bool = False


class Catalog:
    """The entries of a file, which is read on first use."""

    def __init__(self, path: Path = CATALOG_PATH) -> None:
        self._path = path

    @cached_property
    def entries(self) -> Mapping[ModelName, CatalogEntry]:
        """All entries by name."""
        return {entry.name: entry for entry in map(_entry, _read(self._path)["model"])}

    def find(self, name: ModelName) -> CatalogEntry | None:
        """The entry a person means: a name without a tag means the default one of that name."""
        if name in self.entries or name.tag != DEFAULT_TAG:
            return self.entries.get(name)
        named = [entry for entry in self.entries.values() if entry.name.name == name.name and entry.is_default]
        return named[0] if named else None


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return table


def _entry(table: dict[str, Any]) -> CatalogEntry:
    return CatalogEntry(
        name=ModelName.parse(table["name"]),
        title=table["title"],
        licence=table["licence"],
        languages=tuple(table["languages"]),
        tasks=tuple(table["tasks"]),
        sources=tuple(
            CatalogSource(
                ModelRef.parse(source["ref"]),
                source.get("size_bytes"),
                Digest(source["sha256"]) if "sha256" in source else None,
            )
            for source in table["sources"]
        ),
        is_default=table.get("default", False),
    )
