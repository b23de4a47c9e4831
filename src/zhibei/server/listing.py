"""The models as ``/v1/models`` lists them: OpenAI's way, and Anthropic's for its clients. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zhibei.models import StoredModel
from zhibei.plans import Resident
from zhibei.runtime.naming import folded

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: after one entry or before another, so many at most."""

    limit: int = 20
    after_id: str | None = None
    before_id: str | None = None


_LOADED = frozenset(("ready", "busy"))


def listed(models: Iterable[StoredModel], aliases: Mapping[str, str], residents: Sequence[Resident]) -> list[Json]:
    """The entries of all models that can be used, aliases (→ model name) after the model they stand for."""
    return [entry(model, residents, alias) for model, alias in _named(models, aliases)]


def anthropic_list(models: Iterable[StoredModel], aliases: Mapping[str, str], page: Page) -> Json:
    """The same in Anthropic's shape, one page of them."""
    entries = [anthropic_entry(model, alias or model.name) for model, alias in _named(models, aliases)]
    names = [each["id"] for each in entries]
    first, last = 0, len(entries)
    if page.after_id is not None:
        first = names.index(page.after_id) + 1 if page.after_id in names else last
    if page.before_id is not None:
        last = names.index(page.before_id) if page.before_id in names else first
    shown = entries[first:last]
    rest = len(shown) > page.limit
    shown = shown[-page.limit :] if page.before_id is not None else shown[: page.limit]
    return {
        "data": shown,
        "has_more": rest,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def _named(models: Iterable[StoredModel], aliases: Mapping[str, str]) -> Iterable[tuple[StoredModel, str | None]]:
    for model in models:
        if model.problem is None:
            yield model, None
            wanted = folded(model.name)
            for alias in sorted(alias for alias, name in aliases.items() if folded(name) == wanted):
                yield model, alias


def entry(model: StoredModel, residents: Sequence[Resident], alias: str | None = None) -> Json:
    """One model. ``status`` is what front ends for llama.cpp's server read, ``zhibei`` is our own."""
    info = model.info
    own: Json = {
        "size_bytes": model.size_bytes,
        "quantisation": info.quantisation if info else None,
        "context_length": info.context_length if info else None,
        "num_parameters": info.num_parameters if info else None,
    }
    if alias is not None:
        own["alias_of"] = model.name
    return {
        "id": alias or model.name,
        "object": "model",
        "created": int(model.added_at.timestamp()),
        "owned_by": "zhibei",
        "status": {"value": status(model.name, residents)},
        "zhibei": own,
    }


def status(name: str, residents: Iterable[Resident]) -> str:
    """``loaded``, ``loading`` or ``unloaded``."""
    states = {resident.state for resident in residents if resident.name == name}
    if states & _LOADED:
        return "loaded"
    return "loading" if "starting" in states else "unloaded"


def anthropic_entry(model: StoredModel, name: str) -> Json:
    """One model in Anthropic's shape."""
    info = model.info
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": model.added_at.astimezone().isoformat(timespec="seconds"),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "capabilities": None,
        "max_input_tokens": info.context_length if info else None,
        "max_tokens": info.context_length if info else None,
    }
