"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.models import model_bytes
from support.program import Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program, with an empty store."""
    return Program(tmp_path, {})


@pytest.fixture
def stocked(program: Program) -> Program:
    """The program, with the model tiny:latest in its store."""
    (program.directory / "tiny.gguf").write_bytes(model_bytes(4))
    assert program("-q", "pull", "./tiny.gguf").code == 0
    return program
