"""SillyTavern: connected by hand, in its own pages. It speaks KoboldCpp's, llama.cpp's and OpenAI's APIs."""

from __future__ import annotations

from zhibei.cli.clients.base import Client, Setup, Target
from zhibei.i18n import N_


def _setup(target: Target) -> Setup:
    steps = (
        N_("Open the API Connections panel (the plug)."),
        N_("API: Text Completion; API Type: llama.cpp; API URL: {url}"),
        N_("or API: Chat Completion; source: Custom (OpenAI-compatible); endpoint: {url}/v1; model: {model}"),
        N_("API key: {key}"),
        N_("Press Connect; beside the green light a model is named. If there is a list of models, choose {model} in it."),
    )
    return Setup(steps=steps)


CLIENT = Client("sillytavern", "SillyTavern", (), _setup, "https://docs.sillytavern.app/installation/", min_ctx_size=8_192)
