"""The reference page names every field that is taken and every code that is sent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from zhibei.server.errors import TABLE
from zhibei.server.loading import LoadBody
from zhibei.server.openai import schema

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "openai-api.md"


@pytest.fixture(scope="module")
def named() -> set[str]:
    return set(re.findall(r"[a-z][a-z0-9_]*", " ".join(re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")))))


@pytest.mark.parametrize("body", [schema.ChatBody, schema.CompletionBody, schema.EmbeddingBody, LoadBody])
def test_fields(named: set[str], body: type[BaseModel]) -> None:
    assert set(body.model_fields) <= named


def test_codes(named: set[str]) -> None:
    # Nothing raises UserError itself, only the classes below it.
    assert {row.code for row in TABLE.values()} - {"bad_request"} <= named
