"""The only wiring: settings in, a record of objects out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from zhibei.engines.base import Backend
from zhibei.engines.llama_cpp.prompts import PromptStore
from zhibei.engines.registry import Engines, create
from zhibei.engines.upstream.listing import Upstreams
from zhibei.hardware.detect import detect
from zhibei.models import StoredModel
from zhibei.planner.choose import fitting
from zhibei.plans import Hardware
from zhibei.refs import ModelRef
from zhibei.runtime.last_used import LastUsed
from zhibei.runtime.measurements import Measurements
from zhibei.runtime.pool import Pool
from zhibei.runtime.recorder import Recorder
from zhibei.settings import HubSettings, Origins, Settings, foreign_directories
from zhibei.store.library import Library
from zhibei.store.options import FetchOptions, PullOptions
from zhibei.store.sources.base import Hub, Variant, prefer_four_bits

if TYPE_CHECKING:
    from zhibei.store.foreign import ForeignPlaces


@dataclass(frozen=True, slots=True)
class App:
    """What the edges use. Not a façade: they call ``app.library`` and ``app.pool`` themselves.

    ``instance`` tells this App from any other; it means nothing. ``origins``: where settings come from, as ``Resolved`` has it.
    """

    settings: Settings
    library: Library
    pool: Pool
    hardware: Callable[[], Hardware]
    upstreams: Upstreams
    instance: str
    origins: Origins = field(default_factory=dict)
    last_used: LastUsed = field(default_factory=LastUsed)

    async def all_models(self) -> Sequence[StoredModel]:
        """The models on this disk, broken ones included, then those of other servers that answer."""
        own, others = await asyncio.gather(asyncio.to_thread(self.library.list), self.upstreams.models())
        return [*own, *others]

    def resolve(self, name: str) -> StoredModel:
        """A model of either, by its name; no other server is asked.

        Raises:
            What ``Library.resolve`` and ``Upstreams.resolve`` raise.
        """
        return resolve(self.library, self.upstreams, name)

    async def close(self) -> None:
        """Stop every engine."""
        await self.upstreams.close()
        await self.pool.close()


def build(settings: Settings, *, backends: Mapping[str, Backend] | None = None, origins: Origins | None = None) -> App:
    """Build everything. Starts nothing, reads no model, makes no directory.

    Args:
        backends: engines by name, instead of those in the registry's table.
    """
    library = Library(settings.home, options=pull_options(settings), places=partial(places, settings))
    instance = secrets.token_hex(8)
    upstreams = Upstreams(settings.upstreams, instance)
    engines: Mapping[str, Backend]
    if backends is None:
        prompts = PromptStore(settings.home / "cache" / "prompts", settings.prompt_cache_disk_bytes)
        engines = Engines({"upstream": (upstreams,), "llama.cpp": (prompts, settings.stall_timeout_s)})
    else:
        engines = {"upstream": create("upstream", upstreams), **backends}
    recorder = Recorder(settings.home / "state", detect)
    pool = Pool(settings, partial(resolve, library, upstreams), detect, engines, recorder)
    last_used = LastUsed(Measurements(settings.home / "state").models)
    pool.watch(last_used.happened)
    return App(settings, library, pool, detect, upstreams, instance, origins or {}, last_used)


def resolve(library: Library, upstreams: Upstreams, name: str) -> StoredModel:
    """A model by its name, whoever has it."""
    ref = ModelRef.parse(name)
    return upstreams.resolve(ref) if ref.source == "upstream" else library.resolve(name)


def places(settings: Settings) -> ForeignPlaces:
    """Where other programs keep their models."""
    # Looking into other stores needs much that nothing else does.
    from zhibei.store.foreign import foreign_places

    return foreign_places(*foreign_directories(), settings.model_folders)


def pull_options(settings: Settings) -> PullOptions:
    """How pulls fetch, by the settings."""
    hubs, download = settings.hubs, settings.download
    return PullOptions(
        FetchOptions(
            connections=download.connections,
            max_bytes_per_s=download.max_bytes_per_s,
            ca_file=download.ca_file,
            is_offline=download.offline,
        ),
        hubs={
            "hf": Hub(hubs.hf_endpoint.rstrip("/"), _mirrors(hubs), hubs.hf_token),
            "ms": Hub(hubs.ms_endpoint.rstrip("/"), (), hubs.ms_token),
            "ollama": Hub(hubs.ollama_registry.rstrip("/")),
        },
        choose=_choose_variant,
    )


def _mirrors(hubs: HubSettings) -> tuple[str, ...]:
    """The mirrors to try. The public one that is set from the start stands in for the public hub, and for no other."""
    usual = HubSettings()
    if hubs.hf_endpoint.rstrip("/") != usual.hf_endpoint and hubs.hf_mirrors == usual.hf_mirrors:
        return ()
    return tuple(url.rstrip("/") for url in hubs.hf_mirrors)


def _choose_variant(variants: tuple[Variant, ...]) -> Variant:
    """Four bits where they fit, else the largest below that fits, else the smallest there is."""
    hardware = detect()
    # What is busy now may be free when the model is used; but a GPU's memory counts where all of it fits there.
    room = max((hardware.total_bytes or 0, *(gpu.total_bytes or 0 for gpu in hardware.gpus))) or None
    fits = tuple(variants[index] for index in fitting([variant.size_bytes for variant in variants], room))
    if not fits:
        return min(variants, key=lambda variant: variant.size_bytes or 0)
    return prefer_four_bits(fits)
