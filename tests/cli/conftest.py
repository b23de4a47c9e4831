"""What the tests of the command line share."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.models import model_bytes, sha256
from support.program import TIMEOUT_S, Program
from support.running_hub import RunningHub, stalled_pull


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


@pytest.fixture
def beside(program: Program) -> Program:
    """The program, for a person who has a model in Ollama's store and one in LM Studio's."""
    person = program.directory / "person"
    program.extra.update(
        {"HOME": str(person), "XDG_CACHE_HOME": "", "XDG_DATA_HOME": "", "OLLAMA_MODELS": "", "HF_HOME": "", "HF_HUB_CACHE": ""}
    )
    store = person / ".ollama" / "models"
    layers = []
    for kind, content in (("model", model_bytes(4)), ("system", b"Be brief.")):
        path = store / "blobs" / f"sha256-{sha256(content)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        media_type = f"application/vnd.ollama.image.{kind}"
        layers.append({"mediaType": media_type, "digest": f"sha256:{sha256(content)}", "size": len(content)})
    manifest = store / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "1b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    other = person / ".lmstudio" / "models" / "owner" / "some-GGUF" / "some-Q4_0.gguf"
    other.parent.mkdir(parents=True)
    other.write_bytes(model_bytes(5))
    return program


@pytest.fixture
def hub(program: Program) -> Iterator[RunningHub]:
    """A hub that the program knows as Hugging Face."""
    with RunningHub().running() as running:
        program.extra.update(running.environment)
        yield running


@pytest.fixture
def cut_off(program: Program, hub: RunningHub) -> Program:
    """The program, after a pull of the big model that was ended with Ctrl-C; the hub is well again."""
    with stalled_pull(program, hub) as running:
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=TIMEOUT_S)
    assert (running.returncode, err.decode()) == (
        130,
        "Interrupted. What has come is kept; the same command goes on from there.\n",
    )
    hub.heal()
    return program
