"""The reference pages name every field that is taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from zhibei.server.anthropic.schema import MessagesBody
from zhibei.server.openai.responses.schema import ResponseBody
from zhibei.server.openai.schema import RerankBody

PAGES = Path(__file__).parents[4] / "docs" / "reference"


@pytest.mark.parametrize(
    ("page", "body"),
    [("openai-api.md", ResponseBody), ("openai-api.md", RerankBody), ("anthropic-api.md", MessagesBody)],
)
def test_fields(page: str, body: type[BaseModel]) -> None:
    text = (PAGES / page).read_text(encoding="utf-8")
    named = set(re.findall(r"[a-z][a-z0-9_]*", " ".join(re.findall(r"`([^`\n]+)`", text))))
    assert set(body.model_fields) <= named
