"""The schemas of a JSON schema as a graph: what each leads to, and whether a way leads back. Pure; nothing recurses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class SchemaNode:
    """A schema in its place. ``kind`` is how llama.cpp reads it.

    ``parts`` are schemas that lie inside a JSON object or array of the answer; ``alternatives`` stand in this one's own
    place. ``times``: how often llama.cpp writes out what is below. ``ref`` is the path that a reference goes to.
    """

    schema: Mapping[str, Any]
    path: str
    kind: str = "any"
    parts: list[SchemaNode] = field(default_factory=list)
    alternatives: list[SchemaNode] = field(default_factory=list)
    times: int = 1
    ref: str | None = None


Followers = Callable[[SchemaNode], Iterable[SchemaNode]]


def innermost_first(nodes: Sequence[SchemaNode], followers: Followers) -> Iterator[SchemaNode]:
    """Every node after all that it leads to; there must be no cycle."""
    done: set[int] = set()
    for start in nodes:
        waiting = [(start, iter(followers(start)))] if id(start) not in done else []
        done.add(id(start))
        while waiting:
            node, rest = waiting[-1]
            following = next((inner for inner in rest if id(inner) not in done), None)
            if following is None:
                waiting.pop()
                yield node
            else:
                done.add(id(following))
                waiting.append((following, iter(followers(following))))


def find_cycle(nodes: Sequence[SchemaNode], followers: Followers) -> SchemaNode | None:
    """A node from which a way leads back to itself."""
    finished: set[int] = set()
    for start in nodes:
        if id(start) in finished:
            continue
        way = {id(start)}
        waiting = [(start, iter(followers(start)))]
        while waiting:
            node, rest = waiting[-1]
            following = next((inner for inner in rest if id(inner) not in finished), None)
            if following is None:
                waiting.pop()
                way.discard(id(node))
                finished.add(id(node))
            elif id(following) in way:
                return following
            else:
                way.add(id(following))
                waiting.append((following, iter(followers(following))))
    return None
