"""aider: told by its environment and arguments; it speaks OpenAI's API."""

from __future__ import annotations

from zhibei.cli.clients.base import Client, Setup, Target


def _setup(target: Target) -> Setup:
    environment = {"OPENAI_API_BASE": f"{target.url}/v1", "OPENAI_API_KEY": target.given_key}
    return Setup(environment, ("--model", f"openai/{target.model}", "--no-show-model-warnings"))


CLIENT = Client(
    "aider",
    "aider",
    ("aider",),
    _setup,
    "python -m pip install aider-install && aider-install",
    min_ctx_size=16_384,
    secret_names=("OPENAI_API_KEY",),
)
