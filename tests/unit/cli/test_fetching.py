"""What a person typed is found among the models that are here before anything is fetched."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from zhibei.cli.fetching import ensure_model
from zhibei.models import StoredModel


def stored(name: str, source: str, **more: Any) -> StoredModel:
    return replace(StoredModel(name, (), None, source, datetime(2026, 1, 2, tzinfo=timezone.utc)), **more)


class Fetched(Exception):
    """Something was asked for over the network."""


class Store:
    """The verbs that are used to find a model."""

    def __init__(self, *models: StoredModel) -> None:
        self.models = models

    async def list_models(self) -> Sequence[StoredModel]:
        return self.models

    async def pull(self, ref: str) -> AsyncGenerator[Any, None]:
        raise Fetched(ref)
        yield


class Said:
    """An invocation of which only the wording is asked."""

    def text(self, template: str, **values: object) -> str:
        return template.format(**values)


async def found(typed: str, *models: StoredModel) -> str:
    return await ensure_model(Said(), Store(*models), typed)  # type: ignore[arg-type]


@pytest.mark.parametrize("typed", ["hf:o/n", "hf:o/n:Q4_K_M"])
async def test_a_repository_is_the_variant_of_it_that_is_here(typed: str) -> None:
    assert await found(typed, stored("x:latest", "ms:o/n:Q4_K_M"), stored("n:q4_k_m", "hf:o/n:Q4_K_M")) == "n:q4_k_m"


@pytest.mark.parametrize(
    ("typed", "source", "more"),
    [
        ("hf:o/n:Q8_0", "hf:o/n:Q4_K_M", {}),
        ("hf:o/n", "hf:o/n@v1:Q4_K_M", {}),
        ("hf:o/n", "hf:o/n:draft-n-Q8_0.gguf", {}),
        ("hf:o/n", "hf:o/name:Q4_K_M", {}),
        ("hf:o/n", "hf:o/n:Q4_K_M", {"problem": "its file x.gguf is missing"}),
    ],
)
async def test_what_is_something_else_or_broken_is_fetched(
    monkeypatch: pytest.MonkeyPatch, typed: str, source: str, more: dict[str, Any]
) -> None:
    async def follow(invocation: object, events: AsyncGenerator[Any, None], opening: str) -> StoredModel:
        async for _ in events:
            pass
        raise AssertionError

    monkeypatch.setattr("zhibei.cli.fetching.follow_pull", follow)
    with pytest.raises(Fetched, match=typed):
        await found(typed, stored("n:q4_k_m", source, **more))
