"""How a model wants tokens drawn, from the ``generation_config.json`` that comes with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zhibei.errors import ModelFileError
from zhibei.formats.bounded_json import parse_object
from zhibei.models import ModelDefaults
from zhibei.options import Sampling
from zhibei.store.threads import in_thread

_NAME = "generation_config.json"
_MAX_BYTES = 1024 * 1024
_MAX_ITEMS = 10_000


async def read_generation_config(files: Mapping[str, Path]) -> ModelDefaults | None:
    """The defaults that the file holds; None if it is not there, cannot be read or says nothing of the kind."""
    path = files.get(_NAME)
    if path is None:
        return None
    try:
        found = sampling_from(parse_object(await in_thread(_read, path), _NAME, max_bytes=_MAX_BYTES, max_items=_MAX_ITEMS))
    except (OSError, ModelFileError):
        return None
    return None if found == Sampling() else ModelDefaults(sampling=found)


def sampling_from(config: Mapping[str, object]) -> Sampling:
    """The values of a generation configuration that make sense."""
    top_k = config.get("top_k")
    return Sampling(
        temperature=_number(config.get("temperature"), 0.0, 10.0),
        top_p=_number(config.get("top_p"), 0.0, 1.0),
        top_k=top_k if isinstance(top_k, int) and not isinstance(top_k, bool) and 0 <= top_k <= 1_000_000 else None,
        min_p=_number(config.get("min_p"), 0.0, 1.0),
        repeat_penalty=_number(config.get("repetition_penalty"), 0.01, 10.0),
    )


def _number(value: object, least: float, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if least <= value <= most else None


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MAX_BYTES + 1)
