"""Codex: told by its arguments, or by a provider in its configuration; it speaks OpenAI's Responses API."""

from __future__ import annotations

import json
import sys

from zhibei.cli.clients.base import Client, ConfigFile, Setup, Target
from zhibei.cli.clients.marked import with_part, without_part
from zhibei.i18n import N_

KEY_VARIABLE = "ZHIBEI_API_KEY"


def _setup(target: Target) -> Setup:
    provider = {"name": "Zhibei", "base_url": f"{target.url}/v1", "wire_api": "responses"}
    if target.key is not None:
        provider["env_key"] = KEY_VARIABLE
    # A JSON string is a TOML string too.
    inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in provider.items())
    arguments = ["-c", f"model_providers.zhibei={{{inline}}}", "-c", 'model_provider="zhibei"', "-m", target.model]
    if target.ctx_size is not None:
        arguments += ["-c", f"model_context_window={target.ctx_size}"]
    table = "\n".join(("[model_providers.zhibei]", *(f"{name} = {json.dumps(value)}" for name, value in provider.items())))
    environment = {KEY_VARIABLE: target.key} if target.key is not None else {}
    file = ConfigFile((".codex", "config.toml"), table, lambda text: _merged(text, table))
    step = N_("With that part in its file: codex -c model_provider=zhibei -m {model}")
    return Setup(environment, tuple(arguments), file, (step,))


def _merged(text: str | None, table: str) -> str | None:
    """The configuration with our provider in it; None where it is not TOML or has a provider of that name already."""
    if text is not None and "zhibei" in _providers(without_part(text)):
        return None
    merged = with_part(text, table)
    return merged if merged is not None and "zhibei" in _providers(merged) else None


def _providers(text: str) -> dict[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found = tomllib.loads(text).get("model_providers", {})
    except tomllib.TOMLDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


CLIENT = Client(
    "codex",
    "Codex",
    ("codex",),
    _setup,
    "npm install -g @openai/codex",
    min_ctx_size=32_768,
    secret_names=(KEY_VARIABLE,),
    needs_tools=True,
)
