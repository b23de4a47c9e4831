"""The only wiring: settings in, a record of objects out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from zhibei.engines.base import Backend
from zhibei.engines.registry import Engines
from zhibei.hardware.detect import detect
from zhibei.planner.choose import fitting
from zhibei.plans import Hardware
from zhibei.runtime.pool import Pool
from zhibei.runtime.recorder import Recorder
from zhibei.settings import HubSettings, Settings, foreign_directories
from zhibei.store.library import Library
from zhibei.store.options import FetchOptions, PullOptions
from zhibei.store.sources.base import Hub, Variant, prefer_four_bits

if TYPE_CHECKING:
    from zhibei.store.foreign import ForeignPlaces


@dataclass(frozen=True, slots=True)
class App:
    """What the edges use. Not a façade: they call ``app.library`` and ``app.pool`` themselves."""

    settings: Settings
    library: Library
    pool: Pool
    hardware: Callable[[], Hardware]

    async def close(self) -> None:
        """Stop every engine."""
        await self.pool.close()


def build(settings: Settings, *, backends: Mapping[str, Backend] | None = None) -> App:
    """Build everything. Starts nothing, reads no model, makes no directory.

    Args:
        backends: engines by name, instead of those in the registry's table.
    """
    library = Library(settings.home, options=pull_options(settings), places=partial(places, settings))
    engines = backends if backends is not None else Engines()
    recorder = Recorder(settings.home / "state", detect)
    return App(settings, library, Pool(settings, library.resolve, detect, engines, recorder), detect)


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
