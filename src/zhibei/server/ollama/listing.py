"""Stored and running models as Ollama's replies. Owns what is told of a model; reads its header and its texts, starts nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import orjson

from zhibei.errors import ModelFileError, ModelNotFound, StoreError
from zhibei.formats.gguf import GgufHeader, MetadataValue, Omitted, parse
from zhibei.formats.gguf_arrays import read_array
from zhibei.formats.reader import FileReader
from zhibei.models import CREATED, ModelDefaults, StoredModel
from zhibei.plans import Resident
from zhibei.store.modelfile import Modelfile, Parameters, parameter_lines, show
from zhibei.wire import encode

Json = dict[str, Any]
MAX_TEXT_BYTES = 1_048_576
_FOREVER = timedelta(days=36500)
_NAME_WIDTH = 30
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_FIM_KEYS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
# By these a template tells thoughts from answers; compared without regard to case.
_THINKING = ("thinking", "reasoning_content", "reasoning_effort", "think>", "think|>", "thought>", "[think]")


def tag_json(model: StoredModel, alias: str | None = None) -> Json:
    """An entry of /api/tags, under the model's own name or another that stands for it."""
    return {
        "name": alias or model.name,
        "model": alias or model.name,
        "modified_at": model.added_at.isoformat(),
        "size": model.size_bytes,
        "digest": digest_of(model),
        "details": details_json(model),
        "capabilities": capabilities(model),
    }


def running_json(resident: Resident, model: StoredModel | None) -> Json:
    """An entry of /api/ps. A model that stays until it is stopped expires in a hundred years, as Ollama has it."""
    expires_at = resident.expires_at or datetime.now(timezone.utc) + _FOREVER
    gpu_bytes = resident.gpu_bytes
    size = resident.planned_bytes if gpu_bytes else resident.measured_bytes or resident.planned_bytes
    return {
        "name": resident.name,
        "model": resident.name,
        "size": max(size, gpu_bytes),
        "digest": digest_of(model) if model is not None else "",
        "details": details_json(model) if model is not None else {},
        "expires_at": expires_at.isoformat(),
        "size_vram": gpu_bytes,
        "context_length": resident.ctx_size,
    }


def details_json(model: StoredModel) -> Json:
    """``details``. What is not known is empty, as Ollama has it."""
    info = model.info
    family = info.architecture if info is not None else ""
    families = [family] if family else []
    if model.paths("projector"):
        families.append("clip")
    found: Json = {
        "parent_model": model.source.removeprefix(CREATED) if model.is_created else "",
        "format": info.format if info is not None else "",
        "family": family,
        "families": families,
        "parameter_size": _size_text(info.num_parameters if info is not None else None),
        "quantization_level": (info.quantisation or "") if info is not None else "",
    }
    if info is not None and info.context_length is not None:
        found["context_length"] = info.context_length
    if info is not None and info.embedding_length is not None:
        found["embedding_length"] = info.embedding_length
    return found


def capabilities(model: StoredModel, metadata: Mapping[str, MetadataValue] | None = None) -> list[str]:
    """What the model can do, by its header, its files and its template. ``metadata`` also tells whether it fills gaps."""
    info = model.info
    if info is not None and (info.pooling is not None or info.is_causal is False):
        return ["embedding"]
    found = ["completion"]
    template = template_of(model) or ""
    go_template = _text_file(model, "template") or ""
    if model.paths("projector"):
        found.append("vision")
    if "tools" in template or ".Tools" in go_template:
        found.append("tools")
    if ".Suffix" in go_template or (metadata is not None and any(key in metadata for key in _FIM_KEYS)):
        found.append("insert")
    if _has_thoughts(template) or ".Thinking" in go_template:
        found.append("thinking")
    return found


def can_think(model: StoredModel, chat_template: str | None = None) -> bool:
    """Whether its chats have a place for thoughts; what is not known of a model is not denied.

    Args:
        chat_template: takes the place of the model's own.
    """
    if model.info is None or model.info.format in ("upstream", "unknown"):
        return True
    if chat_template is not None:
        return _has_thoughts(chat_template)
    return "thinking" in capabilities(model)


def _has_thoughts(template: str) -> bool:
    folded = template.lower()
    return any(word in folded for word in _THINKING)


def template_of(model: StoredModel) -> str | None:
    """The Jinja template a chat with it goes through; None: it has none."""
    own = model.defaults.load.chat_template if model.defaults is not None else None
    return own or (model.info.chat_template if model.info is not None else None)


def digest_of(model: StoredModel) -> str:
    """What a model is, in 64 hexadecimal digits: the same for copies, another for other files or defaults."""
    files = [[file.role, file.digest or f"{file.path} {file.size_bytes}"] for file in model.files]
    defaults = encode(model.defaults) if model.defaults is not None else None
    return hashlib.sha256(orjson.dumps([files, defaults])).hexdigest()


def show_json(model: StoredModel, *, verbose: bool) -> Json:
    """The answer of /api/show. Reads the model's header."""
    metadata = read_metadata(model, verbose=verbose)
    recipe = recipe_of(model)
    body: Json = {
        "modelfile": _modelfile_text(model, recipe),
        "parameters": "\n".join(f"{name:<{_NAME_WIDTH}} {value}" for name, value in parameter_lines(recipe.parameters)),
        "template": recipe.template or "",
        "details": details_json(model),
        "model_info": model_info(model, metadata, verbose=verbose),
        "capabilities": capabilities(model, metadata),
        "modified_at": model.added_at.isoformat(),
    }
    if recipe.licence:
        body["license"] = "\n".join(recipe.licence)
    if recipe.system is not None:
        body["system"] = recipe.system
    if recipe.messages:
        body["messages"] = [{"role": role, "content": text} for role, text in recipe.messages]
    return body


def recipe_of(model: StoredModel) -> Modelfile:
    """The recipe that makes this model again from itself."""
    defaults = model.defaults or ModelDefaults()
    licence = _text_file(model, "licence") or model.licence
    return Modelfile(
        base=model.name,
        parameters=Parameters(defaults.sampling, defaults.load, defaults.stop, defaults.max_tokens),
        template=_text_file(model, "template") or template_of(model),
        system=defaults.system,
        messages=defaults.messages,
        licence=(licence,) if licence else (),
    )


def model_info(model: StoredModel, metadata: Mapping[str, MetadataValue], *, verbose: bool) -> Json:
    """``model_info``: the header's own keys. Long lists are there when asked for in detail, and empty otherwise, as Ollama's."""
    found: Json = {}
    for key, value in sorted(metadata.items()):
        if isinstance(value, Omitted):
            found[key] = None
        elif isinstance(value, tuple):
            found[key] = list(value) if verbose or len(value) <= 32 else None
        elif key != "tokenizer.chat_template":
            found[key] = value
    info = model.info
    if info is not None:
        found.setdefault("general.architecture", info.architecture)
        if info.num_parameters is not None:
            found.setdefault("general.parameter_count", info.num_parameters)
        if info.context_length is not None:
            found.setdefault(f"{info.architecture}.context_length", info.context_length)
        if info.embedding_length is not None:
            found.setdefault(f"{info.architecture}.embedding_length", info.embedding_length)
    return found


def read_metadata(model: StoredModel, *, verbose: bool = False) -> Mapping[str, MetadataValue]:
    """The header's entries; none where the model is no GGUF file, or cannot be read. Blocks."""
    if model.info is None or model.info.format != "gguf":
        return {}
    try:
        with FileReader(model.model_path) as reader:
            header = parse(reader, reader.size_bytes)
            return {**header.metadata, **_long_lists(reader, header)} if verbose else header.metadata
    except (ModelFileError, ModelNotFound, StoreError, ValueError):
        return {}


def _long_lists(reader: FileReader, header: GgufHeader) -> dict[str, MetadataValue]:
    found: dict[str, MetadataValue] = {}
    for key, value in header.metadata.items():
        whole = read_array(reader, key, header.entries[key]) if isinstance(value, Omitted) else None
        if whole is not None:
            found[key] = whole
    return found


def _modelfile_text(model: StoredModel, recipe: Modelfile) -> str:
    head = "# Modelfile generated by Zhibei\n# A model made from this text is the same as the one it shows.\n\n"
    return head + show(recipe)


def _text_file(model: StoredModel, role: str) -> str | None:
    """A text among the model's files; None if there is none, or it cannot be read."""
    for path in model.paths(role):
        try:
            if path.stat().st_size <= MAX_TEXT_BYTES:
                return path.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError):
            continue
    return None


def _size_text(num_parameters: int | None) -> str:
    """``135M``, ``8.0B``: the number of parameters as Ollama writes it."""
    if num_parameters is None:
        return ""
    for factor, letter in _UNITS:
        if num_parameters >= factor:
            value = num_parameters / factor
            return f"{value:.2f}{letter}" if letter in "MK" else f"{value:.1f}{letter}"
    return str(num_parameters)
