"""What is said of models and of the server: entries, properties, slots, changes of state. Pure, but for the queue of changes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import orjson

from zhibei import __version__
from zhibei.app import App
from zhibei.models import StoredModel
from zhibei.plans import Resident
from zhibei.runtime.happenings import EngineCrashed, Happening, LoadBegan, LoadFailed, ModelLoaded, ModelUnloaded
from zhibei.server.unnamed import status_of

Json = dict[str, Any]
MAX_WAITING = 256


def entry(model: StoredModel, status: str, aliases: Sequence[str]) -> Json:
    """A model in the router's list."""
    info = model.info
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.added_at.timestamp()),
        "owned_by": "zhibei",
        "aliases": list(aliases),
        "tags": [],
        "in_cache": not model.is_upstream,
        "status": {"value": status, "args": []},
        "architecture": {"input_modalities": _modalities(model), "output_modalities": ["text"]},
        "meta": {
            "n_vocab": info.vocabulary_size if info else None,
            "n_ctx_train": info.context_length if info else None,
            "n_embd": info.embedding_length if info else None,
            "n_params": info.num_parameters if info else None,
            "size": model.size_bytes,
            "ftype": info.quantisation if info else None,
        },
    }


def tabby_card(model: StoredModel, ctx_size: int | None) -> Json:
    """A model as tabbyAPI shows it."""
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.added_at.timestamp()),
        "owned_by": "zhibei",
        "parameters": {
            "max_seq_len": ctx_size,
            "use_vision": bool(model.paths("projector")),
            "prompt_template": None,
        },
    }


def properties(model: StoredModel, ctx_size: int | None, loaded: Resident | None) -> Json:
    """``/props``. Of the model's file only the name is told."""
    template = _template(model)
    return {
        "default_generation_settings": {"n_ctx": ctx_size, "params": {}},
        "total_slots": loaded.num_slots if loaded is not None else None,
        "model_alias": model.name,
        "model_ftype": model.info.quantisation if model.info else None,
        "model_path": _file_name(model),
        "modalities": {"vision": bool(model.paths("projector")), "video": False, "audio": False},
        "chat_template": template,
        "chat_template_hash": hashlib.sha256(template.encode()).hexdigest(),
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": False,
        "build_info": f"zhibei-{__version__}",
        "is_sleeping": loaded is None,
    }


def slots(loaded: Resident | None) -> list[Json]:
    """The places of a loaded model. Which of them works is not known, only how many."""
    if loaded is None:
        return []
    return [
        {"id": number, "n_ctx": loaded.ctx_size, "speculative": False, "is_processing": number < loaded.num_leases}
        for number in range(loaded.num_slots)
    ]


def adapters(loras: Sequence[tuple[str, float]]) -> list[Json]:
    """The adapters of the settings, by the names of their files."""
    return [{"id": number, "path": Path(path).name, "scale": scale} for number, (path, scale) in enumerate(loras)]


async def changes(app: App, names: Sequence[str]) -> AsyncGenerator[Json, None]:
    """The state of each model, and from then on each change of it."""
    waiting: asyncio.Queue[Happening] = asyncio.Queue()

    def note(happening: Happening) -> None:
        # Who does not read gets the newest.
        if waiting.qsize() >= MAX_WAITING:
            waiting.get_nowait()
        waiting.put_nowait(happening)

    end = app.pool.watch(note)
    try:
        for name in names:
            yield {"model": name, "event": "model_status", "data": {"status": status_of(app, name)}}
        while True:
            change = _change(await waiting.get())
            if change is not None:
                yield change
    finally:
        end()


class ChangeEvents:
    """Changes as server-sent events."""

    media_type = b"text/event-stream; charset=utf-8"

    def event(self, event: Json | None) -> bytes:
        """One change; None means nothing."""
        return self.idle() if event is None else b"data: " + orjson.dumps(event) + b"\n\n"

    def failure(self, error: bytes) -> bytes:
        """An error instead of the rest."""
        return b"data: " + error + b"\n\n"

    def end(self) -> bytes:
        """Nothing: it has no end of its own."""
        return b""

    def idle(self) -> bytes:
        """A comment."""
        return b": waiting\n\n"


def _change(happening: Happening) -> Json | None:
    data: Json
    if isinstance(happening, LoadBegan):
        data = {"status": "loading"}
    elif isinstance(happening, ModelLoaded):
        data = {"status": "loaded"}
    elif isinstance(happening, ModelUnloaded):
        data = {"status": "unloaded", "exit_code": 0}
    elif isinstance(happening, LoadFailed):
        data = {"status": "unloaded", "exit_code": 1}
    elif isinstance(happening, EngineCrashed):
        data = {"status": "sleeping", "exit_code": 1}
    else:
        return None
    return {"model": happening.name, "event": "status_change", "data": data}


def _modalities(model: StoredModel) -> list[str]:
    return ["text", "image"] if model.paths("projector") else ["text"]


def _template(model: StoredModel) -> str:
    return (model.info.chat_template if model.info is not None else None) or ""


def _file_name(model: StoredModel) -> str:
    return model.name if model.is_upstream else model.model_path.name
