"""Tells a context that could be longer from one that is as long as the model was made for. Knows no pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zhibei.errors import ContextTooLong
from zhibei.models import StoredModel


@contextmanager
def own_limit_told(model: StoredModel) -> Iterator[None]:
    """Within it, a prompt that is too long for the model itself is an error that says so, whoever found it."""
    try:
        yield
    except ContextTooLong as error:
        trained = model.info.context_length if model.info is not None else None
        if trained is None or error.ctx_size < trained:
            raise
        raise ContextTooLong(error.num_prompt_tokens, error.ctx_size, is_models_limit=True) from error
