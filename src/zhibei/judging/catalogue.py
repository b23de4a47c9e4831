"""The catalogue's models as the planner takes them: known by name and size, their headers unread."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from zhibei.engines.registry import AUTOMATIC
from zhibei.formats.unread import scaled
from zhibei.models import StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner import quality, shapes
from zhibei.planner.plan import plan
from zhibei.planner.recommend import Offer
from zhibei.plans import Hardware
from zhibei.refs import ModelRef
from zhibei.store.appraisal import Appraisal, Appraised
from zhibei.store.catalog import Catalog, CatalogEntry
from zhibei.store.partial_headers import Basis

_USUAL = "Q4_K_M"
# Quantisations that hubs usually have of a large model, beside those that the catalogue lists.
_SMALLER = ("IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K")
_HUBS = ("hf", "ms")
_SHORT_TOKENS = 2048


def appraised_entry(reference: str) -> Appraisal | None:
    """A model of the catalogue as its table tells it; None where it has none of that name."""
    ref = ModelRef.parse(reference)
    entry = Catalog().find(ref.name) if ref.source is None else None
    if entry is None or entry.num_parameters is None or not entry.sizes:
        return None
    models = stored(entry, entry.sizes)
    basis: Basis = "catalogue" if shapes.is_known(str(entry.name)) else "usual shape"
    forms = tuple(
        Appraised(ref_of(entry, label), models[label], basis, label)
        for label in sorted(entry.sizes, key=lambda label: entry.sizes[label])
    )
    return Appraisal(reference, forms)


def offers() -> tuple[Offer, ...]:
    """Every model of the catalogue in every quantisation that it is usually had in."""
    return tuple(offer for entry in Catalog().entries.values() for offer in _offers_of(entry))


def stored(entry: CatalogEntry, sizes: Mapping[str, int]) -> dict[str, StoredModel]:
    """A model that is known by its sizes alone, in each quantisation."""
    is_embedding = "embed" in entry.tasks or "rerank" in entry.tasks
    named = shapes.Named(
        str(entry.name), entry.num_parameters or 0, entry.num_active_parameters, entry.context_length, is_embedding
    )
    first, size_bytes = next(iter(sizes.items()))
    info = shapes.info_of(named, first, size_bytes)
    now = datetime.now(timezone.utc)
    return {
        label: StoredModel(
            str(entry.name),
            (StoredFile("model", Path(f"{entry.name.name}-{label}.gguf"), size),),
            scaled(info, size, label),
            ref_of(entry, label),
            now,
            entry.licence,
        )
        for label, size in sizes.items()
    }


def of_size(size_bytes: int) -> StoredModel:
    """A model of which only the size is known: four bits for each parameter, and the shape that is usual then."""
    num_parameters = max(1, round(size_bytes * 8 / (quality.bits_per_weight(_USUAL) or 5.0)))
    info = shapes.info_of(shapes.Named("", num_parameters), _USUAL, size_bytes)
    file = StoredFile("model", Path("model.gguf"), size_bytes)
    return StoredModel("model", (file,), info, "", datetime.now(timezone.utc))


def smallest(hardware: Hardware) -> tuple[str, int]:
    """The model that needs least to talk with, and the main memory that it needs for a short talk without a graphics card."""
    entries = [entry for entry in Catalog().entries.values() if entry.sizes]
    offered = (_offers_of(entry) for entry in sorted(entries, key=lambda entry: min(entry.sizes.values())))
    talking = next(found for found in offered if found and found[0].task == "generate")
    least = min(talking, key=lambda offer: offer.model.size_bytes)
    made = plan(
        least.model, hardware, AUTOMATIC[0], "generate", LoadOptions(ctx_size=_SHORT_TOKENS, gpu_layers=0), with_changes=False
    )
    return least.name, made.needed_main_bytes


def ref_of(entry: CatalogEntry, label: str) -> str:
    """What to pull for a quantisation: the short name for the usual one, else the variant at a hub."""
    if label == _USUAL or len(entry.sizes) == 1:
        return str(entry.name)
    hub = next((source.ref for source in entry.sources if source.ref.source in _HUBS and ":" not in source.ref.location), None)
    return f"{hub}:{label}" if hub is not None else str(entry.name)


def _offers_of(entry: CatalogEntry) -> list[Offer]:
    if entry.num_parameters is None or not entry.sizes:
        return []
    sizes = dict(entry.sizes)
    if "MXFP4" not in sizes:
        smaller = {label: quality.file_bytes(entry.num_parameters, label) for label in _SMALLER}
        sizes |= {label: size for label, size in smaller.items() if size is not None and label not in sizes}
    models = stored(entry, sizes)
    return [
        Offer(
            name=str(entry.name),
            ref=ref_of(entry, label),
            title=entry.title,
            quantisation=label,
            model=models[label],
            num_parameters=entry.num_parameters,
            num_active_parameters=entry.num_active_parameters,
            context_length=entry.context_length,
            tasks=entry.tasks,
            strengths=entry.strengths,
            languages=entry.languages,
            licence=entry.licence,
            is_commercial=entry.commercial is True,
            released_on=entry.released_on,
            has_known_shape=shapes.is_known(str(entry.name)),
        )
        for label in sizes
    ]
