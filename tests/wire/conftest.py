"""A server for each test, and one for tests that leave no trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.node import install_packages
from support.run_wide import once
from support.serving import Serving, serving, stored_model


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one tiny model."""
    home = tmp_path_factory.mktemp("tiny") / "home"
    stored_model(home)
    return home


@pytest.fixture
def start(tiny_home: Path) -> Iterator[Callable[..., Serving]]:
    """Start servers that stop with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(tiny_home, **options))


@pytest.fixture
def server(start: Callable[..., Serving]) -> Serving:
    """A server of this test's own."""
    return start()


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which scripts for node find the official JavaScript clients."""
    return once(tmp_path_factory.getbasetemp(), "js", install_packages)
