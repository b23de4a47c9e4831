"""What a model is said to be able to do."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Literal

import pytest

from zhibei.models import ModelInfo, StoredModel
from zhibei.server.ollama.listing import can_think


def model(template: str | None, kind: Literal["gguf", "upstream"] = "gguf", pooling: str | None = None) -> StoredModel:
    info = ModelInfo(kind, "llama", chat_template=template, pooling=pooling)
    return StoredModel("m:latest", (), info, "", datetime(2026, 1, 1, tzinfo=timezone.utc))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% if enable_thinking %}", True),
        ("<|im_start|>assistant\n<think>\n", True),
        ("{{ '[THINK]' + message.content }}", True),
        ("<|START_THINKING|>", True),
        ("<seed:think>", True),
        ("<|begin|>assistant<|think|>", True),
        ("[|assistant|]<thought>", True),
        ("{{ message.reasoning_content }}", True),
        ("Reasoning: {{ reasoning_effort }}", True),
        ("<start_of_turn>user\n{{ message.content }}", False),
        ("", False),
        (None, False),
    ],
)
def test_a_template_tells_whether_there_is_a_place_for_thoughts(template: str | None, expected: bool) -> None:
    assert can_think(model(template)) is expected


def test_what_is_not_known_is_not_denied() -> None:
    assert can_think(model(None, "upstream"))
    assert can_think(StoredModel("m:latest", (), None, "", datetime(2026, 1, 1, tzinfo=timezone.utc)))


def test_a_template_of_the_settings_takes_the_place_of_the_models() -> None:
    assert can_think(model("plain"), "<think>")
    assert not can_think(model("<think>"), "chatml")


def test_a_model_for_vectors_does_not_think() -> None:
    assert not can_think(model("<think>", pooling="mean"))
