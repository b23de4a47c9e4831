"""What a client is: how it is called, what it is told by environment, arguments or a file. Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

NO_KEY = "zhibei"
"""What a client is given for a key where the server asks for none: most of them want something."""
Merge = Callable[[str | None], str | None]
"""A file's text (None: it does not exist) → the text with our part in it; None where that cannot be done safely."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server and the model. ``url`` ends before ``/v1``; ``key`` None: the server asks for none."""

    url: str
    model: str
    key: str | None = None
    ctx_size: int | None = None

    @property
    def given_key(self) -> str:
        """The key to give, which is never empty."""
        return self.key or NO_KEY


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file of the client's, below the person's home directory. ``fragment``: our part, for a person to read."""

    path: tuple[str, ...]
    fragment: str
    merge: Merge


@dataclass(frozen=True, slots=True)
class Setup:
    """What to set. ``steps``: what a person has to do by hand, as templates."""

    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    file: ConfigFile | None = None
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """A client. ``executables``: what it may be called, empty where it is not started from here.

    ``min_ctx_size``: under which it is of little use. ``install``: how one gets it.
    ``needs_tools``: it offers tools in every request, so that a model whose template has none refuses them all.
    """

    name: str
    title: str
    executables: tuple[str, ...]
    setup: Callable[[Target], Setup]
    install: str
    min_ctx_size: int = 0
    secret_names: tuple[str, ...] = ()
    needs_tools: bool = False
