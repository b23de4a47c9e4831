"""What /api/create asks for, as a recipe of the store. Pure; the store makes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zhibei.errors import BadRequest, StoreError, Unsupported
from zhibei.refs import ModelName
from zhibei.server.ollama import schema
from zhibei.store import modelfile
from zhibei.store.created import Recipe
from zhibei.store.digests import Digest
from zhibei.store.modelfile import parameters_from

_UPLOAD_HINT = "Upload it with POST /api/blobs/sha256:… and name its digest."


@dataclass(frozen=True, slots=True)
class Order:
    """A recipe; ``base`` is the model it starts from as the client names it, which may have to be pulled first."""

    recipe: Recipe
    base: str | None
    ignored: tuple[str, ...]


def order(body: schema.CreateBody) -> Order:
    """What is to be made.

    Raises:
        BadRequest, BadReference: it makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    if body.path is not None:
        raise Unsupported("A Modelfile is not read from the server's disk.", hint="Send its text as modelfile.", param="path")
    if body.quantize or body.quantization:
        raise Unsupported(
            "Models are not quantised here yet.",
            hint="Pull a file of the model that has the quantisation you want: hf:owner/name:Q4_K_M.",
            param="quantize",
        )
    name = ModelName.parse(body.model)
    return _from_text(name, body.modelfile) if body.modelfile is not None else _from_parts(name, body)


def _from_text(name: ModelName, text: str) -> Order:
    read = modelfile.parse(text)
    base, files = _base(read.base, "modelfile")
    adapters = tuple((adapter, _digest(adapter, "modelfile")) for adapter in read.adapters)
    recipe = Recipe(name, None, files, adapters, read.parameters, read.template, read.system, read.messages, read.licence)
    return Order(recipe, base, read.parameters.ignored)


def _from_parts(name: ModelName, body: schema.CreateBody) -> Order:
    if not body.from_ and not body.files:
        raise BadRequest("A model is made from another one, or from files.", hint="Send from or files.", param="from")
    base, files = _base(body.from_, "from") if body.from_ else (None, ())
    files = (*files, *((file, _digest(digest, "files")) for file, digest in (body.files or {}).items()))
    if base is not None and files:
        raise BadRequest("A model is made from another one or from files, not from both.", param="files")
    parameters = parameters_from(body.parameters or {})
    licence = (body.license,) if isinstance(body.license, str) else tuple(body.license or ())
    recipe = Recipe(
        name,
        None,
        files,
        tuple((file, _digest(digest, "adapters")) for file, digest in (body.adapters or {}).items()),
        parameters,
        body.template,
        body.system,
        tuple((message.role, message.content) for message in body.messages or ()),
        tuple(text for text in licence if text.strip()),
    )
    return Order(recipe, base, parameters.ignored)


def _base(text: str | None, param: str) -> tuple[str | None, tuple[tuple[str, Digest], ...]]:
    """The model or the uploaded file that FROM names."""
    said = (text or "").strip()
    if said.lstrip("@").startswith("sha256:"):
        return None, (("model.gguf", _digest(said, param)),)
    if said.startswith(("/", "./", "../", "~", "\\")) or said.lower().endswith((".gguf", ".safetensors")) or said[1:3] == ":\\":
        raise Unsupported("A recipe cannot name files of the server's disk.", hint=_UPLOAD_HINT, param=param)
    return said, ()


def _digest(text: str, param: str) -> Digest:
    try:
        return Digest.parse(text.strip().removeprefix("@"))
    except StoreError:
        raise BadRequest(
            "{text!r} is not the digest of an uploaded file.", hint=_UPLOAD_HINT, param=param, text=text[:100]
        ) from None


def based_on(recipe: Recipe, name: str) -> Recipe:
    """The recipe, once its base is in the store."""
    return replace(recipe, base=ModelName.parse(name))
