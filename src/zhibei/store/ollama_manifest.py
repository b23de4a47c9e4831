"""Ollama's manifests: which blobs a model is made of, and what its small ones say. Pure; checks everything.

The same documents come from a registry and lie in Ollama's own store. Knows neither the network nor a disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zhibei.errors import SourceError, StoreError, Unsupported
from zhibei.formats.gguf import GgufHeader
from zhibei.i18n import N_
from zhibei.models import ModelDefaults
from zhibei.options import LoadOptions, Sampling
from zhibei.store.digests import Digest
from zhibei.store.go_templates import chat_template

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MAX_MANIFEST_BYTES = 8 * 1024 * 1024
MAX_TEXT_BYTES = 1024 * 1024

_PREFIX = "application/vnd.ollama.image."
_ROLES = {
    _PREFIX + "model": "model",
    _PREFIX + "projector": "projector",
    _PREFIX + "adapter": "adapter",
    _PREFIX + "template": "template",
    _PREFIX + "prompt": "template",  # what it was called at first
    _PREFIX + "params": "params",
    _PREFIX + "system": "system",
    _PREFIX + "license": "licence",
}
_WEIGHTS = ("model", "projector", "adapter")
_NAMES = {
    "model": "model.gguf",
    "projector": "mmproj.gguf",
    "adapter": "adapter.gguf",
    "template": "template.txt",
    "params": "params.json",
    "system": "system.txt",
    "licence": "LICENSE",
}
_SINGLE = ("template", "params", "system")
_FOREIGN_WEIGHTS = (_PREFIX + "tensor", _PREFIX + "json")
_DRAFT = _PREFIX + "draft"  # heads for Ollama's own speculation; the model runs without them
_MAX_LAYERS = 64
_MAX_STOPS = 64
_MAX_STOP_LENGTH = 256
_MAX_WEIGHTS_BYTES = 2**44
_HINT = "Look for a GGUF file of it on a hub, and pull that: zhibei pull hf:OWNER/NAME:Q4_K_M"


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model. ``role`` is one of ``zhibei.models.ROLES``, ``name`` its harmless file name within the model."""

    role: str
    name: str
    digest: Digest
    size_bytes: int

    @property
    def is_text(self) -> bool:
        """Whether it is small, and says something about the model instead of being its weights."""
        return self.role not in _WEIGHTS


@dataclass(frozen=True, slots=True)
class OllamaManifest:
    """A checked manifest: the weights first, at least one ``model`` layer among them, names distinct.

    ``config`` is the small JSON that ``parse_config`` reads; None: there is none. ``skipped`` are the kinds of the layers
    that are of no use here.
    """

    layers: tuple[Layer, ...]
    config: Layer | None = None
    skipped: tuple[str, ...] = ()

    def with_role(self, role: str) -> tuple[Layer, ...]:
        """All layers of a role, in order."""
        return tuple(layer for layer in self.layers if layer.role == role)


@dataclass(frozen=True, slots=True)
class OllamaConfig:
    """What the configuration says of a model. Absent facts are None. ``remote_host``: it runs there and not here."""

    model_format: str | None = None
    model_family: str | None = None
    file_type: str | None = None
    remote_host: str | None = None


def parse_manifest(raw: bytes, model: str) -> OllamaManifest:
    """A manifest from its bytes; ``model`` is how messages name it.

    Raises:
        SourceError: it is damaged or hostile.
        Unsupported: it has weights that llama.cpp cannot load.
    """
    document = decode_object(raw, MAX_MANIFEST_BYTES, model)
    listed = document.get("layers")
    if not isinstance(listed, list):
        raise _broken(model, N_("it lists no layers"))
    kinds = [_kind(item, model) for item in listed]
    if any(kind in _FOREIGN_WEIGHTS for kind in kinds):
        raise Unsupported(
            "{model} is made of single tensors for Ollama's own engine; llama.cpp cannot load it.", hint=_HINT, model=model
        )
    if len(listed) > _MAX_LAYERS:
        raise _broken(model, N_("it lists too many layers"))
    config = None
    if isinstance(document.get("config"), dict):
        config = Layer("config", "config.json", *_blob(document["config"], MAX_TEXT_BYTES, model))
    found, skipped = _known(listed, kinds, model)
    layers = _named(found, model)
    _check_distinct(layers, config, model)
    return OllamaManifest(layers, config, skipped)


def name_shards(layers: Sequence[Layer], headers: Sequence[GgufHeader], model: str) -> tuple[Layer, ...]:
    """The ``model`` layers as what their headers, in the same order, say they are: one whole model, or its shards in order.

    Raises:
        SourceError: a shard is missing, or they do not belong together.
    """
    places = [(header.metadata.get("split.no", 0), header.metadata.get("split.count", 0)) for header in headers]
    if len(layers) == 1 and places[0][1] in (0, 1):
        return tuple(layers)
    wanted = [(number, len(layers)) for number in range(len(layers))]
    by_place = dict(zip(places, layers, strict=True))
    if any(place not in by_place for place in wanted):
        raise _broken(model, N_("its files are not the parts of one model"))
    return tuple(
        replace(by_place[place], role="shard", name=f"model-{place[0] + 1:05d}-of-{place[1]:05d}.gguf") for place in wanted
    )


def parse_config(raw: bytes, model: str) -> OllamaConfig:
    """The configuration from its bytes.

    Raises:
        SourceError: it is damaged.
    """
    document = decode_object(raw, MAX_TEXT_BYTES, model)

    def word(key: str) -> str | None:
        value = document.get(key)
        return value if isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable() else None

    return OllamaConfig(word("model_format"), word("model_family"), word("file_type"), word("remote_host"))


def check_runs_here(manifest: OllamaManifest, config: OllamaConfig, model: str) -> None:
    """Return if the model has weights in a format that llama.cpp reads.

    Raises:
        Unsupported: it runs on a server of theirs, or is of another format.
        SourceError: it has no weights at all.
    """
    if config.remote_host is not None:
        raise Unsupported(
            "{model} does not run on your machine but on a server ({host}); there is nothing to pull.",
            hint=_HINT,
            model=model,
            host=config.remote_host,
        )
    if config.model_format not in (None, "gguf"):
        raise Unsupported(
            "{model} is in the format {format}, which llama.cpp cannot load.", hint=_HINT, model=model, format=config.model_format
        )
    if not manifest.with_role("model"):
        raise _broken(model, N_("it lists no model"))


def read_defaults(texts: Mapping[str, bytes], *, has_template: bool) -> ModelDefaults | None:
    """What the model wants to be run with; None: nothing.

    Args:
        texts: the contents of the layers, by role: ``params``, ``system``, ``template``. What makes no sense is passed over.
        has_template: the weights bring a chat template of their own, which then is the better one.
    """
    sampling, stop, load = parse_params(texts.get("params", b""))
    template = None if has_template else chat_template(read_text(texts.get("template", b"")) or "")
    system = read_text(texts.get("system", b""))
    found = ModelDefaults(system, stop, sampling, LoadOptions(ctx_size=load.ctx_size, chat_template=template))
    return found if found != ModelDefaults() else None


def read_text(raw: bytes) -> str | None:
    """A text layer; None if it is empty, too long or no text."""
    if len(raw) > MAX_TEXT_BYTES:
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return text if text.strip() and "\0" not in text else None


def parse_params(raw: bytes) -> tuple[Sampling, tuple[str, ...], LoadOptions]:
    """Sampling, stop texts and load options of a params layer. What is unknown, out of range or ill-typed is passed over."""
    try:
        given = decode_object(raw, MAX_TEXT_BYTES, "") if raw else {}
    except SourceError:
        given = {}
    values: dict[str, Any] = {name: _number(given.get(name), *bounds) for name, bounds in _SAMPLING.items()}
    ctx_size = _number(given.get("num_ctx"), int, 16, 2**31 - 1)
    return Sampling(**values), _stops(given.get("stop")), LoadOptions(ctx_size=None if ctx_size is None else int(ctx_size))


# A seed of -1 stands for none, and so does a context of 0.
_SAMPLING: Mapping[str, tuple[type, float, float]] = {
    "temperature": (float, 0.0, 100.0),
    "top_k": (int, 0, 2**31 - 1),
    "top_p": (float, 0.0, 1.0),
    "min_p": (float, 0.0, 1.0),
    "typical_p": (float, 0.0, 1.0),
    "repeat_penalty": (float, 0.01, 100.0),
    "repeat_last_n": (int, -1, 2**31 - 1),
    "presence_penalty": (float, -2.0, 2.0),
    "frequency_penalty": (float, -2.0, 2.0),
    "seed": (int, 0, 2**32 - 1),
    "mirostat": (int, 0, 2),
    "mirostat_tau": (float, 0.0, 100.0),
    "mirostat_eta": (float, 0.0, 1.0),
}


def _number(value: object, kind: type, least: float, most: float) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        return None
    if not math.isfinite(value) or (kind is int and value != int(value)):
        return None
    return int(value) if kind is int else float(value)


def _stops(value: object) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    texts = (text for text in given if isinstance(text, str) and 0 < len(text) <= _MAX_STOP_LENGTH and "\0" not in text)
    return tuple(dict.fromkeys(texts))[:_MAX_STOPS]


def _known(listed: list[Any], kinds: list[str], model: str) -> tuple[list[tuple[str, Digest, int]], tuple[str, ...]]:
    """``(role, digest, size)`` of the layers that are of use, and the kinds of those that are not."""
    found: list[tuple[str, Digest, int]] = []
    skipped: dict[str, None] = {}
    for item, kind in zip(listed, kinds, strict=True):
        role = _ROLES.get(kind)
        digest, size = _blob(item, MAX_TEXT_BYTES if role and role not in _WEIGHTS else _MAX_WEIGHTS_BYTES, model)
        if role is None:
            if size > MAX_TEXT_BYTES and kind != _DRAFT:
                raise Unsupported("{model} has a part of a kind that is not known: {kind}.", hint=_HINT, model=model, kind=kind)
            skipped[kind.removeprefix(_PREFIX)] = None
        elif size == 0 and role in _WEIGHTS:
            raise _broken(model, N_("a part of it is empty"))
        elif size and (role, digest, size) not in found:
            found.append((role, digest, size))
    return found, tuple(skipped)


def _named(found: list[tuple[str, Digest, int]], model: str) -> tuple[Layer, ...]:
    """The layers with file names, the weights first."""
    ordered = sorted(found, key=lambda item: _WEIGHTS.index(item[0]) if item[0] in _WEIGHTS else len(_WEIGHTS))
    counts: dict[str, int] = {}
    layers = []
    for role, digest, size in ordered:
        number = counts[role] = counts.get(role, 0) + 1
        if number > 1 and role in _SINGLE:
            raise _broken(model, N_("it lists the same thing twice"))
        stem, dot, ending = _NAMES[role].partition(".")
        layers.append(Layer(role, f"{stem}-{number}{dot}{ending}" if number > 1 else _NAMES[role], digest, size))
    return tuple(layers)


def _check_distinct(layers: tuple[Layer, ...], config: Layer | None, model: str) -> None:
    """Weights are nothing else besides, and a blob has one size."""
    seen: dict[Digest, Layer] = {}
    for layer in (*layers, *([config] if config is not None else [])):
        other = seen.setdefault(layer.digest, layer)
        if other is not layer and (other.size_bytes != layer.size_bytes or not (other.is_text and layer.is_text)):
            raise _broken(model, N_("it lists the same thing twice"))


def _kind(item: object, model: str) -> str:
    kind = item.get("mediaType") if isinstance(item, dict) else None
    if not isinstance(kind, str) or not 0 < len(kind) <= 200 or not kind.isprintable():
        raise _broken(model, N_("a layer does not say what it is"))
    return kind.partition(";")[0].strip().lower()


def _blob(item: Mapping[str, Any], most_bytes: int, model: str) -> tuple[Digest, int]:
    size = item.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= most_bytes:
        raise _broken(model, N_("the size of a layer makes no sense"))
    try:
        return Digest.parse(item.get("digest")), size  # type: ignore[arg-type]
    except StoreError as error:
        raise _broken(model, N_("the digest of a layer makes no sense")) from error


def decode_object(raw: bytes, most_bytes: int, model: str) -> dict[str, Any]:
    """A JSON object from outside; ``model`` is what it describes.

    Raises:
        SourceError: it is too large, or none.
    """
    if len(raw) > most_bytes:
        raise _broken(model, N_("it is too large"))
    try:
        document = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SourceError(
            "The description of {model} makes no sense: {problem}.",
            hint="Check the endpoint's address, and that no login page of the network is in between.",
            model=model,
            problem=N_("it is not JSON"),
        ) from error
    if not isinstance(document, dict):
        raise _broken(model, N_("it is not a JSON object"))
    return document


def _broken(model: str, problem: str) -> SourceError:
    return SourceError(
        "The description of {model} makes no sense: {problem}.",
        hint="Pull it again. If it stays so, choose another source of this model.",
        model=model,
        problem=problem,
    )
