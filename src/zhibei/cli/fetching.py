"""Making sure that a model is there before it is used: found in the store, or fetched first."""

from __future__ import annotations

from zhibei.cli.invocation import Invocation
from zhibei.cli.progress import follow_pull
from zhibei.cli.references import as_reference
from zhibei.cli.streams import closing
from zhibei.errors import ModelNotFound
from zhibei.refs import ModelRef
from zhibei.service import Service
from zhibei.store.ways import is_closer


async def ensure_model(invocation: Invocation, service: Service, typed: str) -> str:
    """The name under which the service knows what the person typed, fetched if it can be.

    Raises:
        ModelNotFound: it is neither here nor anywhere it could be fetched from.
    """
    reference = ModelRef.parse(as_reference(typed))
    if reference.source == "file":
        return str(reference)
    if reference.source == "upstream":
        return (await service.show_model(str(reference))).name
    missing: ModelNotFound | None = None
    try:
        found = await _find(service, reference)
    except ModelNotFound as error:
        found, missing = None, error
    if found is not None:
        return found
    opening = invocation.text("{model} is not on this machine yet; fetching it.", model=str(reference))
    try:
        async with closing(service.pull(str(reference))) as events:
            return (await follow_pull(invocation, events, opening)).name
    except ModelNotFound as error:
        raise missing or error from None


async def _find(service: Service, reference: ModelRef) -> str | None:
    if reference.source is None:
        return (await service.show_model(str(reference))).name
    models = await service.list_models()
    return next((stored.name for stored in models if is_closer(stored.source, str(reference)) and not stored.problem), None)
