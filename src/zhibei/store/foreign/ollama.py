"""Ollama's store: ``manifests/<host>/<namespace>/<name>/<tag>`` (JSON) and ``blobs/sha256-<hex>`` below a models directory
(github.com/ollama/ollama, docs/faq.md "Where are models stored?" and types/model/name.go)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zhibei.errors import BadReference, SourceError, Unsupported
from zhibei.models import ModelDefaults
from zhibei.refs import ModelName
from zhibei.store.foreign.found import (
    DAMAGED,
    ELSEWHERE,
    FOR_OLLAMA,
    IN_PIECES,
    MISSING,
    UNFINISHED,
    UNREADABLE,
    ForeignFile,
    ForeignModel,
    spoken,
)
from zhibei.store.foreign.looking import Look, file_at, read_small
from zhibei.store.foreign.places import ForeignPlaces
from zhibei.store.ollama_manifest import (
    MAX_MANIFEST_BYTES,
    MAX_TEXT_BYTES,
    Layer,
    OllamaConfig,
    OllamaManifest,
    parse_config,
    parse_manifest,
    read_defaults,
)

PROGRAM = "ollama"
_PUBLIC_HOST = "registry.ollama.ai"
_PUBLIC_NAMESPACE = "library"
_DEPTH = 4


def find(places: ForeignPlaces) -> Iterator[ForeignModel]:
    """``ollama/<name>:<tag>``, with the namespace and the host before it where they are not the public ones."""
    for root in places.ollama:
        manifests = root / "manifests"
        for listing in Look().walk(manifests, max_depth=_DEPTH - 1):
            where = listing.path.relative_to(manifests).parts
            if len(where) == _DEPTH - 1:
                for tag in listing.files:
                    if not tag.startswith("."):
                        yield _model(root, where, tag)


def defaults_of(model: ForeignModel, *, has_template: bool) -> ModelDefaults | None:
    """What the model wants to be run with, by its own small files; None: nothing. ``has_template``: the weights bring one."""
    texts = {}
    for file in model.files:
        if file.role in ("params", "system", "template"):
            texts[file.role] = read_small(file.path, MAX_TEXT_BYTES) or b""
    return read_defaults(texts, has_template=has_template)


def _model(root: Path, where: tuple[str, ...], tag: str) -> ForeignModel:
    host, namespace, short = where
    parts = (short,) if (host, namespace) == (_PUBLIC_HOST, _PUBLIC_NAMESPACE) else (namespace, short)
    name = f"{spoken(*(parts if host == _PUBLIC_HOST else where))}:{spoken(tag)}"
    files, problem = _files(root, where, tag, name)
    try:
        suggested = ModelName.parse(f"{'/'.join(parts)}:{tag}")
    except BadReference:
        suggested = None
    return ForeignModel(f"{PROGRAM}/{name}", PROGRAM, files, problem, suggested)


def _files(root: Path, where: tuple[str, ...], tag: str, name: str) -> tuple[tuple[ForeignFile, ...], str | None]:
    raw = read_small(root.joinpath("manifests", *where, tag), MAX_MANIFEST_BYTES)
    if raw is None:
        return (), UNREADABLE
    try:
        manifest = parse_manifest(raw, name)
        problem = _problem_of(root, manifest, name)
    except Unsupported:
        return (), FOR_OLLAMA
    except SourceError:
        return (), DAMAGED
    found = [(layer, _blob(root, layer)) for layer in manifest.layers]
    files = tuple(file for _, file in found if file is not None)
    if problem is None and len(files) < len(found):
        problem = MISSING
    if problem is None and any(file.size_bytes != layer.size_bytes for layer, file in found if file is not None):
        problem = UNFINISHED
    return files, problem


def _problem_of(root: Path, manifest: OllamaManifest, name: str) -> str | None:
    """Why the model cannot be used, as far as its manifest and configuration say."""
    raw = read_small(_path(root, manifest.config), MAX_TEXT_BYTES) if manifest.config is not None else None
    config = parse_config(raw, name) if raw else OllamaConfig()
    if config.remote_host is not None or not manifest.with_role("model"):
        return ELSEWHERE
    if config.model_format not in (None, "gguf"):
        return FOR_OLLAMA
    return IN_PIECES if len(manifest.with_role("model")) > 1 else None


def _blob(root: Path, layer: Layer) -> ForeignFile | None:
    return file_at(_path(root, layer), layer.role, layer.name)


def _path(root: Path, layer: Layer) -> Path:
    return root / "blobs" / f"sha256-{layer.digest.hex}"
