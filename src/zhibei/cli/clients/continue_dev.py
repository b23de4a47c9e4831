"""Continue: an editor's extension, told by its configuration; it speaks OpenAI's API."""

from __future__ import annotations

import json

from zhibei.cli.clients.base import Client, ConfigFile, Setup, Target
from zhibei.cli.clients.marked import with_part, without_part
from zhibei.i18n import N_


def _setup(target: Target) -> Setup:
    # A JSON string is a YAML string too.
    entry = [
        f"  - name: {json.dumps('Zhibei ' + target.model)}",
        "    provider: openai",
        f"    model: {json.dumps(target.model)}",
        f"    apiBase: {json.dumps(target.url + '/v1')}",
        f"    apiKey: {json.dumps(target.given_key)}",
        "    roles: [chat, edit, apply]",
    ]
    whole = "\n".join(("name: Zhibei", "version: 0.0.1", "schema: v1", "models:", *entry))
    file = ConfigFile((".continue", "config.yaml"), whole, lambda text: _merged(text, whole))
    return Setup(file=file, steps=(N_("Continue reads its configuration anew when the file is saved; choose the model there."),))


def _merged(text: str | None, whole: str) -> str | None:
    """A new file, or ours again: one that a person wrote is theirs to change, for its models are one list."""
    if text is not None and without_part(text).strip():
        return None
    return with_part(text, whole)


CLIENT = Client("continue", "Continue", (), _setup, "https://docs.continue.dev", min_ctx_size=16_384)
