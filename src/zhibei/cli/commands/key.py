"""``zhibei key``: the keys of this machine's server. Works on their file, whether the server runs or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import click

from zhibei.cli import flags
from zhibei.cli.connect import here_only
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Whole, Words
from zhibei.cli.render import table
from zhibei.cli.wording import TRY_HELP, command, json_option, option
from zhibei.errors import BadRequest
from zhibei.i18n import N_
from zhibei.server.access import SCOPES, Scope
from zhibei.server.keys import MAX_LIMIT, Key, KeyFile, KeyLimits
from zhibei.units import parse_keep_alive

_DEFAULT_SCOPES: tuple[Scope, ...] = ("chat", "read")
_MAKING = ("name", "scope", "requests_per_minute", "tokens_per_minute", "concurrent", "expires")


@command(
    "key",
    N_(
        "Make, list and revoke the keys of this machine's server.\n"
        "'create' prints the new key, which is not kept; 'list' shows all; 'revoke ID' ends one, also for a server that runs.\n"
        "Once there is a key, every request needs one."
    ),
)
@click.argument("action", metavar="create|list|revoke")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@option("--name", kind=Words("TEXT"), help=N_("create: what or whom it is for."))
@option(
    "--scope",
    kind=OneOf(SCOPES),
    multiple=True,
    help=N_("create: what it opens: chat (use models), read (see them), admin (everything); chat and read if not given."),
)
@option("--requests-per-minute", kind=Whole(1, MAX_LIMIT), help=N_("create: requests it may send a minute."))
@option("--tokens-per-minute", kind=Whole(1, MAX_LIMIT), help=N_("create: tokens, of prompts and answers, it may use a minute."))
@option("--concurrent", kind=Whole(1, MAX_LIMIT), help=N_("create: requests it may have under way at once."))
@option("--expires", kind=flags.Duration(), help=N_("create: how long it lasts: 30d, 12h, forever."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, action: str, ids: tuple[str, ...], as_json: bool, **params: Any) -> None:
    """Do one of the three."""
    given = [name for name in _MAKING if params[name] not in (None, ())]
    here_only(invocation.settings, "zhibei key")
    keys = KeyFile(invocation.settings.home)
    if action != "create" and given:
        raise BadRequest("{option} is for create alone.", param=given[0], option="--" + given[0].replace("_", "-"))
    if action != "revoke" and ids:
        raise BadRequest("Unexpected argument: {argument}", hint=TRY_HELP, argument=ids[0], command="zhibei key")
    if action == "create":
        _create(invocation, keys, params, as_json)
    elif action == "list":
        _list(invocation, keys.keys(), as_json)
    elif action == "revoke":
        _revoke(invocation, keys, ids, as_json)
    else:
        raise BadRequest("There is no {action}: create, list or revoke.", hint=TRY_HELP, action=action, command="zhibei key")


def _create(invocation: Invocation, keys: KeyFile, params: Mapping[str, Any], as_json: bool) -> None:
    limits = KeyLimits(params["requests_per_minute"], params["tokens_per_minute"], params["concurrent"])
    was_open = not keys.keys() and invocation.settings.server.api_key is None
    key, text = keys.create(params["name"] or "", params["scope"] or _DEFAULT_SCOPES, limits, _expiry(params["expires"]))
    if as_json:
        invocation.printer.json({"key": text, **_document(key)})
        return
    invocation.note("The key {id} can do: {scopes}. This is its text; it is shown only now:", id=key.id, scopes=_scopes(key))
    invocation.printer.data(text)
    if was_open:
        invocation.note("From now on this machine's server wants a key with every request; commands present ZHIBEI_API_KEY.")


def _list(invocation: Invocation, keys: Sequence[Key], as_json: bool) -> None:
    if as_json:
        invocation.printer.json({"keys": [_document(key) for key in keys]})
        return
    if not keys:
        invocation.note("There are no keys. Make one: zhibei key create")
        return
    headings = [
        N_("ID"),
        N_("NAME"),
        N_("SCOPES"),
        N_("CREATED"),
        N_("EXPIRES"),
        N_("REQUESTS/MIN"),
        N_("TOKENS/MIN"),
        N_("AT ONCE"),
    ]
    rows = [_row(invocation, key) for key in keys]
    for line in table([invocation.text(heading) for heading in headings], rows, right=(5, 6, 7)):
        invocation.printer.data(line)


def _revoke(invocation: Invocation, keys: KeyFile, ids: Sequence[str], as_json: bool) -> None:
    if not ids:
        raise BadRequest("{name} is missing.", hint=TRY_HELP, name="ID", command="zhibei key")
    gone = []
    for key_id in ids:
        gone.append(keys.revoke(key_id))
        if not as_json:
            invocation.note("Revoked {id}.", id=key_id)
    if as_json:
        invocation.printer.json({"revoked": [_document(key) for key in gone]})
    elif not keys.keys() and invocation.settings.server.api_key is None:
        invocation.note("That was the last key. A server that runs stays closed; one that starts now is open to this machine.")


def _expiry(text: str | None) -> datetime | None:
    lasts_s = None if text is None else parse_keep_alive(text)
    if lasts_s is None:
        return None
    if lasts_s < 1:
        raise BadRequest("A key that expires at once opens nothing.", param="--expires")
    return datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=lasts_s)


def _scopes(key: Key) -> str:
    return ", ".join(scope for scope in SCOPES if scope in key.scopes)


def _row(invocation: Invocation, key: Key) -> list[str]:
    expires = "-" if key.expires_at is None else key.expires_at.astimezone().strftime("%Y-%m-%d %H:%M")
    if key.is_expired(datetime.now(timezone.utc)):
        expires = invocation.text("expired")
    limits = (key.limits.requests_per_minute, key.limits.tokens_per_minute, key.limits.concurrent)
    return [
        key.id,
        key.name or "-",
        _scopes(key),
        key.created_at.astimezone().strftime("%Y-%m-%d %H:%M"),
        expires,
        *("-" if limit is None else str(limit) for limit in limits),
    ]


def _document(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": [scope for scope in SCOPES if scope in key.scopes],
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "concurrent": key.limits.concurrent,
    }
