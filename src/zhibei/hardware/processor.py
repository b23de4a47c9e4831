"""What is known of a processor. A value that each probe fills as far as it can; the first to know a fact is believed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Processor:
    """All cores of a machine together; caches are summed. Performance cores None: all are of one kind, or not known."""

    name: str | None = None
    vendor: str | None = None
    num_physical_cores: int | None = None
    num_logical_cores: int | None = None
    num_performance_cores: int | None = None
    num_efficiency_cores: int | None = None
    l1d_bytes: int | None = None
    l2_bytes: int | None = None
    l3_bytes: int | None = None
    num_numa_nodes: int | None = None
    features: tuple[str, ...] = ()

    def filled(self, more: Processor) -> Processor:
        """This, with what it leaves open taken from another probe."""
        open_fields = (item.name for item in fields(self) if getattr(self, item.name) in (None, ()))
        return replace(self, **{name: getattr(more, name) for name in open_fields})
