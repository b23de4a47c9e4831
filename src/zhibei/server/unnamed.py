"""Which model a request means that names none: for the APIs that were made for a server of one model. No HTTP here."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timezone

from zhibei.app import App
from zhibei.errors import ZhibeiError
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.fit import task_of
from zhibei.plans import Resident, Task
from zhibei.refs import ModelRef
from zhibei.runtime.defaults import load_options
from zhibei.runtime.naming import wishes_of
from zhibei.settings import DEFAULT_MODEL

MAX_TEXT_CHARS = 4 * 1024 * 1024
"""Of a text that goes to a tokeniser as it came."""
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


async def meant_model(app: App, name: str | None = None, task: Task = "generate") -> str:
    """The model named, else the one most recently used of those loaded, else that of the settings if they were given one.

    Else the one last used of those that are here, else the newest; nothing here is the usual one, which can be pulled.
    """
    if name:
        return name
    loaded = latest(app, task)
    if loaded is not None:
        return loaded.name
    if app.settings.model != DEFAULT_MODEL:
        return app.settings.model
    return await asyncio.to_thread(_unloaded, app, task) or app.settings.model


def _unloaded(app: App, task: Task) -> str | None:
    """The model for a task that was used last, else the newest of this disk; files that have no name are passed over."""
    for name in app.last_used.names():
        with suppress(ZhibeiError):
            if ModelRef.parse(name).source != "file" and _can(app.pool.find(name), task):
                return name
    newest = max((model for model in app.library.list() if _can(model, task)), key=lambda model: model.added_at, default=None)
    return newest.name if newest is not None else None


def _can(model: StoredModel, task: Task) -> bool:
    return model.problem is None and task_of(model.info, None)[0] == task


def latest(app: App, task: Task = "generate") -> Resident | None:
    """The model most recently used: one that is busy, else the one that would be unloaded last, else the last one loaded."""
    found = [(number, each) for number, each in enumerate(app.pool.residents()) if each.task == task and each.state != "stopping"]
    ranked = sorted(found, key=lambda pair: (pair[1].num_leases > 0, pair[1].expires_at or _LONG_AGO, pair[0]))
    return ranked[-1][1] if ranked else None


def resident(app: App, name: str, task: Task = "generate") -> Resident | None:
    """The model of a complete name, if it is loaded or being loaded."""
    return next((each for each in app.pool.residents() if each.name == name and each.task == task), None)


def status_of(app: App, name: str) -> str:
    """``unloaded``, ``loading``, ``loaded`` or ``sleeping`` (its engine has ended and starts again when it is needed)."""
    states = [each.state for each in app.pool.residents() if each.name == name]
    if any(state not in ("starting", "stopping", "failed", "stopped") for state in states):
        return "loaded"
    if "starting" in states:
        return "loading"
    return "sleeping" if "failed" in states or "stopped" in states else "unloaded"


async def stored_model(app: App, name: str) -> StoredModel:
    """What is known of a model.

    Raises:
        ModelNotFound, ModelBroken, BadReference: there is none.
    """
    return await asyncio.to_thread(app.pool.find, name)


async def context_size(app: App, model: StoredModel) -> int | None:
    """Tokens of context per request: as loaded, else as it would be loaded now; None: not known."""
    loaded = resident(app, model.name)
    if loaded is not None:
        return loaded.ctx_size or None
    wishes = wishes_of(app.settings, model, model.name)
    try:
        plan = app.pool.plan(model, "generate", load_options(LoadOptions(), model.defaults, wishes.load))
    except ZhibeiError:
        plan = None
    if plan is not None and plan.ctx_size:
        return plan.ctx_size
    return model.info.context_length if model.info is not None else None
