"""Completion of names in a shell: what may stand where the cursor is."""

from __future__ import annotations

from typing import Any

import click

from zhibei.cli.invocation import Invocation
from zhibei.errors import ZhibeiError
from zhibei.store.library import Library


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of models in the store; nothing where the store cannot be read."""
    from click.shell_completion import CompletionItem

    invocation: Invocation = ctx.find_root().obj
    try:
        models = Library(invocation.settings.home).list()
    except (ZhibeiError, OSError):
        return []
    return [CompletionItem(stored.name) for stored in models if stored.name.startswith(incomplete.lower())]
