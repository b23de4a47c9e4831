"""Claude Code: told by its environment; it speaks Anthropic's API."""

from __future__ import annotations

import json
from collections.abc import Mapping

from zhibei.cli.clients.base import Client, ConfigFile, Setup, Target


def _setup(target: Target) -> Setup:
    environment = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_AUTH_TOKEN": target.given_key,
        # One that is set for the real service would be asked about, or sent here.
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_MODEL": target.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": target.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": target.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": target.model,
        "CLAUDE_CODE_SUBAGENT_MODEL": target.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    fragment = json.dumps({"env": environment}, indent=2)
    file = ConfigFile((".claude", "settings.json"), fragment, lambda text: _merged(text, environment))
    return Setup(environment, file=file)


def _merged(text: str | None, environment: Mapping[str, str]) -> str | None:
    """The settings with our variables among those that they set."""
    try:
        settings = json.loads(text) if text and text.strip() else {}
    except ValueError:
        return None
    if not isinstance(settings, dict) or not isinstance(settings.get("env", {}), dict):
        return None
    return json.dumps({**settings, "env": {**settings.get("env", {}), **environment}}, indent=2, ensure_ascii=False) + "\n"


CLIENT = Client(
    "claude-code",
    "Claude Code",
    ("claude",),
    _setup,
    "npm install -g @anthropic-ai/claude-code",
    min_ctx_size=32_768,
    secret_names=("ANTHROPIC_AUTH_TOKEN",),
    needs_tools=True,
)
