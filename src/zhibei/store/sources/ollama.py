"""``ollama:[NAMESPACE/]NAME[:TAG]``: a model of an Ollama registry, with its template, parameters and system text.

The registry's address is a setting and no part of the location. Blobs are named by their digests, which the store checks;
the small ones that are read here are checked here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from zhibei.errors import BadReference, SourceError, Unsupported
from zhibei.events import Notice, Progress
from zhibei.formats.architectures import loadable
from zhibei.formats.gguf import GgufHeader, parse
from zhibei.formats.reader import FileReader
from zhibei.models import ModelDefaults
from zhibei.refs import ModelName
from zhibei.store.digests import Digest
from zhibei.store.failures import AGAIN_HINT
from zhibei.store.fetch import Fetcher, FetchOptions
from zhibei.store.go_templates import is_plain, recognise
from zhibei.store.headers import parse_remote_header
from zhibei.store.ollama_manifest import (
    MAX_TEXT_BYTES,
    Layer,
    OllamaConfig,
    OllamaManifest,
    check_runs_here,
    name_shards,
    parse_config,
    parse_manifest,
    read_defaults,
    read_text,
)
from zhibei.store.ollama_registry import OllamaRegistry
from zhibei.store.sources.base import HUBS, RemoteFile, RemoteModel, SourceContext
from zhibei.store.threads import in_thread

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_LOCATION = re.compile(
    rf"(?:(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?(?P<name>{_PART})(?::(?P<tag>{_PART}))?", re.ASCII
)
_MAX_KEPT_BYTES = 64 * 1024 * 1024
_HINT = "Look for a GGUF file of it on a hub, and pull that: zhibei pull hf:OWNER/NAME:Q4_K_M"


@dataclass(frozen=True, slots=True)
class _Place:
    """A location, complete."""

    namespace: str
    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}" if self.namespace == "library" else f"{self.namespace}/{self.name}:{self.tag}"

    @property
    def model_name(self) -> ModelName | None:
        """The name in the store; None: it cannot be one."""
        try:
            return ModelName.parse(str(self))
        except BadReference:
            return None


class OllamaSource:
    """The ``ollama:`` source. Holds one fetcher, for the registry."""

    def __init__(self, context: SourceContext) -> None:
        self._options = context.fetch or FetchOptions()
        self._endpoint = context.hubs.get("ollama", HUBS["ollama"]).endpoint.rstrip("/")
        self._open = AsyncExitStack()
        self._fetcher: Fetcher | None = None
        self._found: OllamaRegistry | None = None
        self._ranges: dict[Digest, bool] = {}
        self._kept: list[tuple[Digest, int, bytes]] = []

    async def resolve(self, location: str) -> RemoteModel:
        """Ask for the manifest, and look at the small blobs and the headers of the large ones."""
        place = _parse(location)
        if self._fetcher is None:
            self._fetcher = await self._open.enter_async_context(Fetcher(self._endpoint, self._options))
        registry = self._found = OllamaRegistry(self._fetcher, self._endpoint, f"{place.namespace}/{place.name}")
        raw = await registry.read_manifest(place.tag, str(place))
        manifest = parse_manifest(raw, str(place))
        config = OllamaConfig()
        if manifest.config is not None:
            config = parse_config(await registry.read_blob(manifest.config), str(place))
        check_runs_here(manifest, config, str(place))
        layers, notices = await self._examine(place, manifest)
        return RemoteModel(
            f"ollama:{place}",
            place.model_name,
            tuple(_file(place, layer) for layer in layers),
            notices=notices,
            revision=f"sha256:{hashlib.sha256(raw).hexdigest()}",
        )

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Bytes by range; None if where the blobs lie does not do ranges. Those of headers are kept: they are asked for twice."""
        assert file.digest is not None
        if not await self._has_ranges(file):
            return None
        for digest, start, piece in self._kept:
            if digest == file.digest and start <= offset and offset + length <= start + len(piece):
                return piece[offset - start : offset - start + length]
        found = await self._registry.blob(file.digest).read(file, offset, length)
        if sum(len(piece) for _, _, piece in self._kept) + len(found) <= _MAX_KEPT_BYTES:
            self._kept.append((file.digest, offset, found))
        return found

    async def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """Ask whether it can be had in parts, where that is worth it."""
        if file.role not in ("template", "params", "system", "licence"):
            await self._has_ranges(file)
        yield file

    def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes | memoryview, None]:
        """The blob's bytes; a cut connection is continued."""
        assert file.digest is not None
        return self._registry.blob(file.digest).open(file, offset, end)

    def has_ranges(self, file: RemoteFile) -> bool:
        """Whether the server does, as far as it was asked."""
        return file.digest is not None and self._ranges.get(file.digest, False)

    async def unfold(self) -> RemoteModel | None:
        """None: ``resolve`` names every file."""
        return None

    async def read_defaults(self, files: Mapping[str, Path]) -> ModelDefaults | None:
        """What its params, system and template files say."""
        return await in_thread(_read_defaults, files)

    async def close(self) -> None:
        """Close all connections."""
        await self._open.aclose()
        self._fetcher = None
        self._kept.clear()

    async def _examine(self, place: _Place, manifest: OllamaManifest) -> tuple[tuple[Layer, ...], tuple[Notice, ...]]:
        """The layers with the names that their headers give them, and what a person should know.

        Raises:
            Unsupported: llama.cpp cannot load it.
        """
        notices = [_not_carried(kind) for kind in manifest.skipped]
        models = manifest.with_role("model")
        others = tuple(layer for layer in manifest.layers if layer.role != "model")
        headers = [await self._read_header(_file(place, layer)) for layer in models]
        found = [header for header in headers if header is not None]
        if len(found) < len(models):
            if len(models) > 1:
                raise SourceError(
                    "{model} is in several files, which cannot be checked before the download.",
                    hint="Pull a GGUF file of it from another hub: zhibei search {name}",
                    model=str(place),
                    name=place.name,
                )
            return models + others, tuple(notices)
        models = name_shards(models, found, str(place))
        first = next((header for header in found if "general.architecture" in header.metadata), found[0])
        notices += _check_loadable(first, str(place))
        template = manifest.with_role("template")
        if template and not isinstance(first.metadata.get("tokenizer.chat_template"), str):
            text = read_text(await self._registry.read_blob(template[0])) or ""
            if recognise(text) is None and not is_plain(text):
                notices.append(_UNKNOWN_TEMPLATE)
        return models + others, tuple(notices)

    async def _read_header(self, file: RemoteFile) -> GgufHeader | None:
        if not await self._has_ranges(file):
            return None
        return await parse_remote_header(self, file)

    async def _has_ranges(self, file: RemoteFile) -> bool:
        assert file.digest is not None
        if file.digest not in self._ranges:
            probe = await self._registry.blob(file.digest).probe(file)
            if probe.file.size_bytes not in (None, file.size_bytes):
                raise SourceError(
                    "{host} has {name} with another size than it announced.", hint=AGAIN_HINT, host=probe.host, name=file.name
                )
            self._ranges[file.digest] = probe.has_ranges
        return self._ranges[file.digest]

    @property
    def _registry(self) -> OllamaRegistry:
        assert self._found is not None, "resolve comes first"
        return self._found


_UNKNOWN_TEMPLATE = Notice(
    "The chat template of this model is written for Ollama and is not known here, and the model file has none: answers may "
    "be poor. Give it one with --chat-template-file."
)


def _parse(location: str) -> _Place:
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise BadReference(
            "{location!r} is not the name of a model in Ollama's registry.",
            hint="Write ollama:name:tag or ollama:owner/name:tag; the registry's address is the setting hubs.ollama_registry.",
            location=location[:100],
        )
    return _Place(match["namespace"] or "library", match["name"], match["tag"] or "latest")


def _file(place: _Place, layer: Layer) -> RemoteFile:
    return RemoteFile(layer.name, f"ollama:{place}@{layer.digest}", layer.role, layer.size_bytes, layer.digest)


def _check_loadable(header: GgufHeader, model: str) -> list[Notice]:
    verdict = loadable(header)
    architecture = str(header.metadata.get("general.architecture", "?"))[:64]
    if verdict == "no":
        raise Unsupported(
            "{model} ({architecture}) is in a form that only Ollama's own engine can load; llama.cpp cannot.",
            hint=_HINT,
            model=model,
            architecture=architecture,
        )
    if verdict == "yes":
        return []
    return [
        Notice(
            "{model} ({architecture}) may be in a form that only Ollama's own engine can load. If it does not start, pull a "
            "GGUF file of it from another hub.",
            (("model", model), ("architecture", architecture)),
        )
    ]


def _not_carried(kind: str) -> Notice:
    return Notice("The model has a part that Zhibei does not use: {part}.", (("part", kind),))


def _read_defaults(files: Mapping[str, Path]) -> ModelDefaults | None:
    names = {"params": "params.json", "system": "system.txt", "template": "template.txt"}
    texts = {}
    for role, name in names.items():
        if name in files:
            with FileReader(files[name]) as reader:
                texts[role] = reader.read_at(0, MAX_TEXT_BYTES + 1)
    weights = sorted(name for name in files if name.startswith("model") and name.endswith(".gguf"))
    has_template = False
    if "template" in texts and weights:
        with FileReader(files[weights[0]]) as reader:
            has_template = "tokenizer.chat_template" in parse(reader, reader.size_bytes).metadata
    return read_defaults(texts, has_template=has_template)
