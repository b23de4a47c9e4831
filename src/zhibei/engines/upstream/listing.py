"""The other servers of the settings and their models, as far as is known now. Owns what was seen; asks through ``look``.

A server that is down holds nothing up: it is asked for two seconds at most, all at once, and not again for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from zhibei.engines.upstream.look import Seen, Unseen, look
from zhibei.engines.upstream.signs import Listed
from zhibei.errors import BadSetting, EngineRefused, ModelNotFound, UpstreamDown, ZhibeiError
from zhibei.models import ModelInfo, StoredModel
from zhibei.refs import ModelRef, UpstreamModel
from zhibei.settings import UpstreamSettings

FRESH_S = 10.0
# Where something is known already, a server that takes its time is shown as it was.
PATIENCE_S = 0.3


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """How one of the other servers was when it was last looked at. ``problem`` None: it answers."""

    name: str
    url: str
    kind: str | None
    version: str | None
    models: tuple[Listed, ...]
    problem: ZhibeiError | None


class Upstreams:
    """The other servers, by their names in the settings."""

    def __init__(self, settings: Mapping[str, UpstreamSettings], instance: str) -> None:
        """Asks nobody yet.

        Args:
            instance: what this server calls itself, so that it does not stand behind itself.
        """
        self._settings = settings
        self._instance = instance
        self._states: dict[str, UpstreamState] = {}
        self._looked_s: float | None = None
        self._looking: asyncio.Task[None] | None = None

    def settings_of(self, name: str) -> UpstreamSettings:
        """How a server is reached.

        Raises:
            ModelNotFound: the settings name no such server.
        """
        if name not in self._settings:
            raise ModelNotFound(
                "There is no server {name!r} in the configuration.",
                hint="Look for servers: zhibei discover. Add one as [upstreams.{name}] with its url.",
                name=name,
            )
        return self._settings[name]

    def resolve(self, ref: ModelRef) -> StoredModel:
        """The model of a reference, as far as is known without asking; a start finds out whether it is there.

        Raises:
            BadReference: it does not parse.
            ModelNotFound: there is no such server, or this model of it is not offered here.
        """
        wanted = UpstreamModel.of(ref)
        settings = self.settings_of(wanted.server)
        if settings.models and wanted.model not in settings.models:
            raise ModelNotFound(
                "The configuration offers no model {model} of {name}.",
                hint="Add it to upstreams.{name}.models.",
                model=wanted.model,
                name=wanted.server,
            )
        state = self._states.get(wanted.server)
        known = next((model for model in state.models if model.name == wanted.model), None) if state is not None else None
        return _stored(wanted.server, known or Listed(wanted.model))

    async def models(self) -> list[StoredModel]:
        """What the servers that answer list, or of it what the settings name; sorted by name. Takes two seconds at most."""
        found = [_stored(state.name, model) for state in await self.states() for model in self._offered(state)]
        return sorted(found, key=lambda model: model.name)

    async def states(self) -> tuple[UpstreamState, ...]:
        """How all of them are, looked at just now or a moment ago; in the order of the settings."""
        if self._looked_s is None or time.monotonic() - self._looked_s > FRESH_S:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.get_running_loop().create_task(self._look_at_all())
            is_known = self._looked_s is not None
            # Whoever asked may leave: others wait for the same answer.
            done, _ = await asyncio.wait({self._looking}, timeout=PATIENCE_S if is_known else None)
            for looking in done:
                looking.result()
        return tuple(self._states[name] for name in self._settings)

    async def look_at(self, name: str) -> UpstreamState:
        """How one of them is now."""
        settings = self.settings_of(name)
        state = _state(name, settings, await look(settings.url, settings.api_key), self._instance)
        self._states[name] = state
        return state

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look_at_all(self) -> None:
        await asyncio.gather(*(self.look_at(name) for name in self._settings))
        self._looked_s = time.monotonic()

    def _offered(self, state: UpstreamState) -> tuple[Listed, ...]:
        wanted = self._settings[state.name].models
        if not wanted or state.problem is not None:
            return state.models
        known = {model.name: model for model in state.models}
        # What is named may be offered without being listed: many gateways do so.
        return tuple(known.get(name, Listed(name)) for name in wanted)


def _state(name: str, settings: UpstreamSettings, found: Seen | Unseen, instance: str) -> UpstreamState:
    if isinstance(found, Unseen):
        problem = no_answer(name, settings.url) if found.is_silent else _unknown(name, settings.url)
        return UpstreamState(name, settings.url, None, None, (), problem)
    identity = found.identity
    error: ZhibeiError | None = None
    if identity.instance is not None and identity.instance == instance:
        error = BadSetting(
            "The server {name} at {url} is this very server.",
            hint="Give upstreams.{name} the address of another one, or remove it.",
            name=name,
            url=settings.url,
        )
    elif identity.wants_key:
        error = wrong_key(name, settings.url)
    models = () if error is not None else found.models
    return UpstreamState(name, settings.url, identity.kind, identity.version, models, error)


def no_answer(name: str, url: str) -> UpstreamDown:
    """The error for a server that cannot be reached."""
    return UpstreamDown(
        "The server {name} at {url} does not answer.",
        hint="Start it, or correct upstreams.{name}.url in the configuration.",
        name=name,
        url=url,
    )


def wrong_key(name: str, url: str) -> EngineRefused:
    """The error for a server that does not let us in."""
    return EngineRefused(
        "The server {name} at {url} wants another key.",
        hint="Set upstreams.{name}.api_key in the configuration.",
        name=name,
        url=url,
    )


def _unknown(name: str, url: str) -> EngineRefused:
    return EngineRefused(
        "The server {name} at {url} does not speak OpenAI's API.",
        hint="Correct upstreams.{name}.url in the configuration.",
        name=name,
        url=url,
    )


def _stored(server: str, model: Listed) -> StoredModel:
    name = str(UpstreamModel(server, model.name))
    info = ModelInfo("upstream", "upstream", context_length=model.context_length, quantisation=model.quantisation)
    added = datetime.now(timezone.utc) if model.created_s is None else datetime.fromtimestamp(model.created_s, timezone.utc)
    return StoredModel(name, (), info, name, added)
