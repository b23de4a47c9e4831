"""Which files of a Hugging Face repository say what its safetensors model is, and the index that lists its weights. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from zhibei.errors import ModelFileError
from zhibei.formats.bounded_json import parse_object
from zhibei.formats.window import shown

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
POOLING = "1_Pooling/config.json"
README = "README.md"

DESCRIBING: Mapping[str, int] = {
    CONFIG: 1024 * 1024,
    INDEX: 64 * 1024 * 1024,
    TOKENIZER_CONFIG: 4 * 1024 * 1024,
    CHAT_TEMPLATE: 1024 * 1024,
    POOLING: 64 * 1024,
    README: 1024 * 1024,
}
"""The files that ``describe_repository`` reads, each with the most bytes that it may have."""

MAX_INDEX_ENTRIES = 500_000
MAX_WEIGHT_FILES = 1000

_WEIGHTS = re.compile(r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])\.)[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<part>[0-9]{5})-of-(?P<count>[0-9]{5})\.safetensors", re.DOTALL)
_LICENCE_LINE = re.compile(r"^licen[cs]e:[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9._+-]{0,63})[\"']?[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SafetensorsIndex:
    """Which file has which tensor. ``total_bytes`` is what the publisher says that all tensors take."""

    weight_map: Mapping[str, str]
    total_bytes: int | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The weight files, sorted."""
        return tuple(sorted(set(self.weight_map.values())))


def parse_index(data: bytes) -> SafetensorsIndex:
    """A ``model.safetensors.index.json``.

    Raises:
        ModelFileError: it is damaged or too large, or names a file that is no safetensors file beside it.
    """
    found = parse_object(data, INDEX, max_bytes=DESCRIBING[INDEX], max_items=MAX_INDEX_ENTRIES)
    weight_map = found.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError("it does not say which file has which tensor", field=INDEX, offset=0)
    for file in weight_map.values():
        if not isinstance(file, str) or not _WEIGHTS.fullmatch(file):
            raise ModelFileError("it names {file}, which cannot be a file of the model", field=INDEX, offset=0, file=_ascii(file))
    index = SafetensorsIndex(weight_map, _total_bytes(found.get("metadata")))
    if len(index.files) > MAX_WEIGHT_FILES:
        raise ModelFileError("it names more than {limit} files", field=INDEX, offset=0, limit=MAX_WEIGHT_FILES)
    return index


def weight_names(names: Collection[str], index: SafetensorsIndex | None) -> tuple[str, ...]:
    """The weight files of the model among all file names of its repository, the first one first; () if there is none.

    Raises:
        ModelFileError: one that belongs to it is missing, or it cannot be told which belong together.
    """
    if index is not None:
        for name in index.files:
            if name not in names:
                raise ModelFileError("the weight file {name} is missing", field=INDEX, offset=0, name=name)
        return index.files
    found = sorted(name for name in names if _WEIGHTS.fullmatch(name) and not name.startswith("adapter_"))
    if "model.safetensors" in found:
        return ("model.safetensors",)
    if len(found) <= 1:
        return tuple(found)
    match = _SHARD.fullmatch(found[0])
    if match is None:
        raise ModelFileError("several weight files, and no index that says which are one model", field="file names", offset=0)
    wanted = [f"{match['stem']}-{part:05d}-of-{match['count']}.safetensors" for part in range(1, int(match["count"]) + 1)]
    for name in wanted[:MAX_WEIGHT_FILES]:
        if name not in found:
            raise ModelFileError("the weight file {name} is missing", field="file names", offset=0, name=_ascii(name))
    return tuple(wanted)


def licence_of(readme: bytes) -> str | None:
    """The licence that a model card names in its front matter."""
    text = readme[: DESCRIBING[README]].decode("utf-8", "replace")
    opening, _, rest = text.partition("---")
    front, closing, _ = rest.partition("\n---")
    match = _LICENCE_LINE.search(front) if not opening.strip("\ufeff \r\n") and closing else None
    return match[1] if match else None


def _total_bytes(metadata: object) -> int | None:
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    is_whole = isinstance(total, (int, float)) and not isinstance(total, bool) and 0 < total < 2**63
    return int(total) if is_whole and isinstance(total, (int, float)) else None


def _ascii(name: object) -> str:
    return shown(ascii(name))
