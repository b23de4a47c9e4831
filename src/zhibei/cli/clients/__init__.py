"""Programs that can be pointed at a server: one file each and this table. Pure: what they need, nothing is run or written."""

from __future__ import annotations

from collections.abc import Mapping

from zhibei.cli.clients import aider, claude_code, codex, continue_dev, open_webui, sillytavern
from zhibei.cli.clients.base import Client

CLIENTS: Mapping[str, Client] = {
    each.CLIENT.name: each.CLIENT for each in (claude_code, codex, aider, continue_dev, open_webui, sillytavern)
}
