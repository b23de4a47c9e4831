"""What ``verify``, ``repair`` and ``update`` share: which models are meant, and the check of one of them as a person sees it."""

from __future__ import annotations

from collections.abc import Sequence

from zhibei.cli.invocation import Invocation
from zhibei.cli.progress import open_view
from zhibei.cli.streams import closing
from zhibei.errors import ModelBroken
from zhibei.events import Checked
from zhibei.models import StoredModel
from zhibei.refs import ModelName
from zhibei.service import Service


async def chosen(service: Service, names: Sequence[str]) -> list[StoredModel]:
    """The models of these names, broken ones included, each once; all, if none is named.

    Raises:
        BadReference, ModelNotFound: there is no such model.
    """
    known = {stored.name: stored for stored in await service.list_models()}
    if not names:
        return list(known.values())
    found: dict[str, StoredModel] = {}
    for name in names:
        wanted = str(ModelName.parse(name))
        stored = known.get(wanted)
        if stored is None:
            stored = known[await _full_name(service, wanted)]
        found[stored.name] = stored
    return list(found.values())


async def check(invocation: Invocation, service: Service, stored: StoredModel) -> Checked:
    """Read one model again; what is shown meanwhile is taken away at the end."""
    result = Checked(stored.name, stored.problem)
    with open_view(invocation, total_bytes=stored.size_bytes, is_passing=True) as view:
        async with closing(service.verify([stored.name])) as events:
            async for event in events:
                if isinstance(event, Checked):
                    result = event
                else:
                    view.take(event)
    return result


async def _full_name(service: Service, name: str) -> str:
    """The name of a model by a short name that the catalogue has for it."""
    try:
        return (await service.show_model(name)).name
    except ModelBroken as error:
        return str(error.values["name"])
