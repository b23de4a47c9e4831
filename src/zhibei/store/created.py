"""A model made of another one, or of uploaded files, with defaults of its own. Owns what a recipe comes to as a manifest.

The weights are shared with the base: a blob has as many models as refer to it. Reads headers, through the bounded reader.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from zhibei.errors import BadRequest, ModelFileError, ModelNotFound, Unsupported
from zhibei.formats.gguf import MAGIC, GgufHeader, describe, parse
from zhibei.formats.gguf_shards import check_shards
from zhibei.formats.inspect import looks_like
from zhibei.formats.reader import FileReader
from zhibei.models import CREATED, ModelDefaults, ModelInfo, StoredModel
from zhibei.refs import ModelName
from zhibei.store.blobs import BlobStore
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.go_templates import chat_template, is_plain
from zhibei.store.manifests import Manifest, ManifestFile, ManifestStore
from zhibei.store.modelfile import Parameters
from zhibei.store.uploads import store_text
from zhibei.store.views import Views, needs_view

_LOCK_TIMEOUT_S = 5.0
_HEAD_BYTES = 512
_TEXTS = ("template", "system", "params", "licence")
# What continues a prompt as it is: no turns are marked.
_PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make. Either ``base``, a model in the store, or ``files``: (name, blob) of GGUF files that were uploaded.

    ``template`` is a Jinja or a Go template. What is None or empty stays as the base has it.
    """

    name: ModelName
    base: ModelName | None = None
    files: tuple[tuple[str, Digest], ...] = ()
    adapters: tuple[tuple[str, Digest], ...] = ()
    parameters: Parameters = Parameters()
    template: str | None = None
    system: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    licence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workshop:
    """What is used of the store. ``show`` makes the StoredModel of a manifest; ``find`` reads one."""

    blobs: BlobStore
    disk: Disk
    manifests: ManifestStore
    views: Views
    find: Callable[[ModelName], Manifest]
    show: Callable[[Manifest], StoredModel]


def create(store: Workshop, recipe: Recipe) -> tuple[Manifest, Manifest | None]:
    """Make a model; it and what had its name before. Blocks.

    Raises:
        ModelNotFound: there is no such base, or a file was not uploaded.
        BadRequest: the name is taken by another model, or the files make no model.
        Unsupported: they do, but cannot be used.
        ModelFileError: one is damaged or hostile.
        StoreBusy, StoreError, DiskFull: the disk.
    """
    files, info, defaults, licence = _foundation(store, recipe)
    files = (*files, *_adapters(store, recipe))
    files, defaults, licence = _with_texts(store, recipe, files, info, defaults, licence)
    source = f"{CREATED}{recipe.base or ''}"
    manifest = Manifest(recipe.name, source, datetime.now(timezone.utc), files, info, licence, defaults=defaults)
    old = store.manifests.read(recipe.name)
    _check_free(old, manifest, store)
    with contextlib.ExitStack() as held:
        for digest in sorted(manifest.digests, key=str):
            held.enter_context(store.blobs.lock(digest.hex)).acquire(_LOCK_TIMEOUT_S)
        missing = [str(digest) for digest in manifest.digests if not store.blobs.has(digest)]
        if missing:
            raise _not_uploaded(missing[0])
        store.manifests.write(manifest)
    if needs_view(manifest):
        store.views.ensure(manifest)
    return manifest, old


def _foundation(store: Workshop, recipe: Recipe) -> tuple[tuple[ManifestFile, ...], ModelInfo | None, ModelDefaults, str | None]:
    """The files of the base, or of what was uploaded, and what is known of them."""
    if recipe.base is not None and not recipe.files:
        manifest = store.find(recipe.base)
        problem = store.show(manifest).problem
        if problem is not None:
            raise BadRequest(
                "The model {model} cannot be used: {problem}.", param="from", model=str(recipe.base), problem=problem
            )
        return manifest.files, manifest.info, manifest.defaults or ModelDefaults(), manifest.licence
    if not recipe.files or recipe.base is not None:
        raise BadRequest("A model is made from another one, or from files.", hint="Send from or files.", param="from")
    files, info = _weights(store, recipe.files)
    return files, info, ModelDefaults(), info.licence


def _weights(store: Workshop, uploaded: tuple[tuple[str, Digest], ...]) -> tuple[tuple[ManifestFile, ...], ModelInfo]:
    """The uploaded files by what their headers say they are."""
    models: list[tuple[Digest, GgufHeader]] = []
    others: list[ManifestFile] = []
    for name, digest in uploaded:
        header = _header(store, name, digest)
        role = _role(header)
        if role == "model":
            models.append((digest, header))
        else:
            file_name = {"projector": "mmproj", "adapter": "adapter"}[role]
            others.append(ManifestFile(role, f"{file_name}-{len(others) + 1}.gguf", header.size_bytes, digest))
    if not models:
        raise BadRequest("There are no weights of a model among the files.", param="files")
    models.sort(key=lambda item: _shard_number(item[1]))
    headers = [header for _, header in models]
    check_shards(headers)
    info = describe(headers)
    count = len(models)
    weights = tuple(
        ManifestFile(
            "shard" if count > 1 else "model",
            f"model-{number:05d}-of-{count:05d}.gguf" if count > 1 else "model.gguf",
            header.size_bytes,
            digest,
        )
        for number, (digest, header) in enumerate(models, start=1)
    )
    return (*weights, *others), info


def _header(store: Workshop, name: str, digest: Digest) -> GgufHeader:
    path = _uploaded(store, digest)
    with FileReader(path) as reader:
        head = reader.read_at(0, _HEAD_BYTES)
        if name.lower().endswith(".safetensors") or (head[8:9] == b"{" and not head.startswith(MAGIC)):
            raise Unsupported(
                "Safetensors files cannot be made into a model here yet.",
                hint="Convert them to GGUF first, or pull a GGUF file of the model.",
                param="files",
            )
        if not head.startswith(MAGIC):
            raise ModelFileError("it is {kind}", field="magic", offset=0, kind=looks_like(head))
        return parse(reader, reader.size_bytes)


def _uploaded(store: Workshop, digest: Digest) -> Path:
    if not store.blobs.has(digest):
        raise _not_uploaded(str(digest))
    return store.blobs.path(digest)


def _not_uploaded(digest: str) -> ModelNotFound:
    return ModelNotFound("There is no file {digest} here.", hint="Upload it first: POST /api/blobs/{digest}", digest=digest)


def _role(header: GgufHeader) -> str:
    kind, architecture = header.metadata.get("general.type"), header.metadata.get("general.architecture")
    if kind == "adapter":
        return "adapter"
    return "projector" if kind in ("mmproj", "projector") or architecture == "clip" else "model"


def _shard_number(header: GgufHeader) -> int:
    number = header.metadata.get("split.no", 0)
    return number if isinstance(number, int) else 0


def _adapters(store: Workshop, recipe: Recipe) -> tuple[ManifestFile, ...]:
    found = []
    for number, (name, digest) in enumerate(recipe.adapters, start=1):
        header = _header(store, name, digest)
        if _role(header) != "adapter":
            raise BadRequest("{name} is no adapter.", param="adapters", name=name[:100])
        found.append(ManifestFile("adapter", f"lora-{digest.hex[:12]}-{number}.gguf", header.size_bytes, digest))
    return tuple(found)


def _with_texts(
    store: Workshop,
    recipe: Recipe,
    files: tuple[ManifestFile, ...],
    info: ModelInfo | None,
    defaults: ModelDefaults,
    licence: str | None,
) -> tuple[tuple[ManifestFile, ...], ModelDefaults, str | None]:
    """The recipe's own texts and values over those of the base."""
    given = recipe.parameters
    load = given.load.over(defaults.load)
    texts: dict[str, str] = {}
    if recipe.template is not None:
        texts["template"] = recipe.template
        load = replace(load, chat_template=jinja_of(recipe.template))
    if recipe.licence:
        texts["licence"] = "\n\n".join(recipe.licence)
    found = ModelDefaults(
        system=defaults.system if recipe.system is None else recipe.system or None,
        stop=given.stop or defaults.stop,
        sampling=given.sampling.over(defaults.sampling),
        load=load,
        messages=recipe.messages or defaults.messages,
        max_tokens=defaults.max_tokens if given.max_tokens is None else given.max_tokens,
    )
    gone = {*texts, *(("system",) if recipe.system is not None else ()), *(("params",) if given != Parameters() else ())}
    kept = tuple(file for file in files if file.role not in gone)
    names = {"template": "template.txt", "licence": "LICENSE"}
    for role, text in texts.items():
        digest, size_bytes = store_text(store.blobs, store.disk, text)
        kept = (*kept, ManifestFile(role, names[role], size_bytes, digest))
    first_line = recipe.licence[0].strip().partition("\n")[0][:100] if recipe.licence else None
    return kept, found, first_line or licence


def jinja_of(template: str) -> str:
    """A template as the engine takes it: Jinja as it is, a Go template by its format.

    Raises:
        Unsupported: a Go template of a format that is not known.
    """
    if "{%" in template or not template.strip():
        return template
    if is_plain(template):
        return _PLAIN
    found = chat_template(template)
    if found is None:
        raise Unsupported(
            "This template is in Ollama's language and of a format that is not known here.",
            hint="Leave it out, so that the model's own is used, or give a Jinja template.",
            param="template",
        )
    return found


def _check_free(old: Manifest | None, new: Manifest, store: Workshop) -> None:
    """A name is taken only from what was made here too, or from what loses no file by it."""
    if old is None or old.source.startswith(CREATED) or store.show(old).problem is not None:
        return
    weights = {(file.digest, file.path) for file in old.files if file.role not in _TEXTS}
    if weights <= {(file.digest, file.path) for file in new.files}:
        return
    raise BadRequest(
        "There is already a model {name}, from {source}.",
        hint="Choose another name, or remove the other model first.",
        param="model",
        name=str(old.name),
        source=old.source,
    )
