"""What a person calls models: aliases, and what ``[models."name"]`` in the settings says of which model. Pure.

Names are compared as the store compares them: without regard to case, ``:latest`` is implied. An alias may be any text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zhibei.errors import BadSetting
from zhibei.models import StoredModel
from zhibei.options import LoadOptions, Sampling
from zhibei.refs import DEFAULT_TAG
from zhibei.settings import ModelSettings, Settings


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings want of one model; its own table over what is said for all. ``system`` None: left to its packer."""

    load: LoadOptions
    sampling: Sampling
    keep_alive: str
    system: str | None = None
    pin: bool = False
    aliases: tuple[str, ...] = ()


def aliases_of(settings: Settings) -> Mapping[str, str]:
    """Alias → the model it stands for, both as they are written in the settings.

    Raises:
        BadSetting: one alias stands for two models, or is empty.
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for model, wanted in settings.models.items():
        for alias in wanted.aliases:
            if not alias.strip() or taken.setdefault(folded(alias), model) != model:
                raise BadSetting(
                    "{alias!r} cannot be an alias of {model}.",
                    hint="An alias stands for one model, and is not empty.",
                    alias=alias,
                    model=model,
                )
            found[alias] = model
    return found


def target_of(settings: Settings, name: str) -> str | None:
    """The model that an alias stands for; None where it is no alias."""
    wanted = folded(name)
    return next((model for alias, model in aliases_of(settings).items() if folded(alias) == wanted), None)


def settings_of(settings: Settings, *names: str) -> ModelSettings:
    """The table of the model that goes by one of ``names``, the first that has one; an empty one where none has."""
    tables = {folded(name): table for name, table in settings.models.items()}
    return next((tables[wanted] for name in names if (wanted := folded(name)) in tables), ModelSettings())


def wishes_of(settings: Settings, model: StoredModel, *names: str) -> Wishes:
    """What is wanted of a model; ``names``: what it was also asked for as."""
    own = settings_of(settings, model.name, *names)
    return Wishes(
        load=own.load.over(settings.load),
        sampling=own.sampling.over(settings.sampling),
        keep_alive=own.keep_alive or settings.keep_alive,
        system=own.system,
        pin=own.pin,
        aliases=own.aliases,
    )


def folded(name: str) -> str:
    """The form in which names are compared."""
    text = name.strip().lower()
    return text if ":" in text else f"{text}:{DEFAULT_TAG}"
