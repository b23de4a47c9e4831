"""Open WebUI: told by its environment when it starts for the first time; it speaks OpenAI's API and Ollama's."""

from __future__ import annotations

from zhibei.cli.clients.base import Client, Setup, Target
from zhibei.i18n import N_


def _setup(target: Target) -> Setup:
    environment = {
        "OPENAI_API_BASE_URL": f"{target.url}/v1",
        "OPENAI_API_KEY": target.given_key,
        # Both would show every model twice.
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODELS": target.model,
    }
    step = N_("Open WebUI keeps connections in its database after the first start: change them there, in its admin settings.")
    return Setup(environment, ("serve",), steps=(step,))


CLIENT = Client("open-webui", "Open WebUI", ("open-webui",), _setup, "pip install open-webui", secret_names=("OPENAI_API_KEY",))
