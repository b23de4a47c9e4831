"""Files that a person names for loading."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from support.models import model_bytes
from zhibei.errors import ModelNotFound
from zhibei.models import StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.runtime.named_files import with_files


def stored(path: Path) -> StoredModel:
    return StoredModel("m:latest", (StoredFile("model", path, 1),), None, "test", datetime.now(timezone.utc))


def test_a_draft_model_comes_with_what_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "draft.gguf"
    path.write_bytes(model_bytes(4))
    found = with_files(stored(tmp_path / "model.gguf"), LoadOptions(draft_model=str(path)))
    assert found.paths("draft") == (path,)
    assert found.draft is not None and found.draft.architecture == "llama"


def test_one_that_is_no_model_is_left_to_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "draft.gguf"
    path.write_bytes(b"nothing")
    assert with_files(stored(tmp_path / "model.gguf"), LoadOptions(draft_model=str(path))).draft is None


def test_one_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        with_files(stored(tmp_path / "model.gguf"), LoadOptions(draft_model=str(tmp_path / "none.gguf")))
