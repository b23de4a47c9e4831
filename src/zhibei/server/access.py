"""What a caller needs for each route, and what kind of body it takes. Owns the kinds; each dialect has its own table."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Scope = Literal["chat", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("chat", "read", "admin")
"""Use models; see models, machine and pool; change them. ``admin`` may do all of it."""


@dataclass(frozen=True, slots=True)
class Access:
    """``scope`` None: no key is needed. A ``file`` is not JSON, and is read by its route as it comes.

    ``may_be_untyped``: programs need not say that they send JSON; pages in a browser must.
    """

    scope: Scope | None
    body: Literal["json", "file"] = "json"
    may_be_untyped: bool = False


AccessRules = Mapping[tuple[str, str], Access]
"""(method, path pattern) → what it needs. HEAD is as GET."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is needed for the paths of one pattern."""

    pattern: str
    access: Access


class AccessTable:
    """The rules of all dialects."""

    def __init__(self, rules: Iterable[AccessRules]) -> None:
        # The command line knows of scopes too, and should not wait for a web framework.
        from starlette.routing import compile_path

        self._exact: dict[tuple[str, str], Rule] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Rule]] = []
        for each in rules:
            for (method, pattern), access in each.items():
                rule = Rule(pattern, access)
                if "{" in pattern:
                    self._patterns.append((method, compile_path(pattern)[0], rule))
                else:
                    self._exact[method, pattern] = rule

    def find(self, method: str, path: str) -> Rule | None:
        """What a request needs; None where no rule is written: then nobody but an administrator may know what is there."""
        wanted = "GET" if method == "HEAD" else method
        exact = self._exact.get((wanted, path))
        if exact is not None:
            return exact
        return next((rule for how, pattern, rule in self._patterns if how == wanted and pattern.match(path)), None)


def is_loopback(host: str) -> bool:
    """Whether a server that listens on ``host`` can only be reached from its own machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
