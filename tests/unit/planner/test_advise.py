"""Which hardware is advised: the machines that are tried, their prices, and what is left of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from support.plans_made import GIB, HERE, model_of, plan_of
from zhibei.options import LoadOptions
from zhibei.planner import devices
from zhibei.planner.advise import Cost, Machine, advise, cost_of, fastest_rate, machines_from, with_memory
from zhibei.planner.plan import plan
from zhibei.plans import Gpu, Hardware, Plan


def machine(amount: int | None, rate: float, title: str = "card") -> Machine:
    cost = None if amount is None else Cost(amount, "USD", date(2024, 1, 1))
    hardware = replace(HERE, gpus=(Gpu(title, "NVIDIA", bandwidth_bytes_per_s=round(rate * 10**9)),), bandwidth_bytes_per_s=1)
    return Machine("cards", hardware, f"{title} {rate}", 1, cost=cost)


def by_bandwidth(hardware: Hardware) -> Plan:
    return plan_of("runs", (hardware.gpus[0].bandwidth_bytes_per_s or 0) / 10**9)


def test_the_cheapest_first_and_only_what_nothing_cheaper_matches() -> None:
    machines = [machine(900, 30), machine(300, 10), machine(500, 8), machine(700, 10), machine(400, 12)]
    priced, _ = advise(machines, by_bandwidth, least_rate=5)
    assert [(item.machine.cost.amount, item.rate) for item in priced if item.machine.cost] == [(300, 10), (400, 12), (900, 30)]


def test_budget_and_speed_are_kept() -> None:
    machines = [machine(300, 4), machine(500, 8), machine(900, 30), machine(None, 3), machine(None, 7)]
    priced, unpriced = advise(machines, by_bandwidth, least_rate=5, budget=600)
    assert [item.rate for item in priced] == [8]
    assert [item.rate for item in unpriced] == [7]


def test_what_does_not_run_is_not_advised() -> None:
    assert advise([machine(1, 9)], lambda _: plan_of("does_not_fit"), least_rate=0) == ((), ())


def test_machines_that_cannot_be_fast_enough_are_not_planned() -> None:
    planned: list[Hardware] = []

    def make(hardware: Hardware) -> Plan:
        planned.append(hardware)
        return by_bandwidth(hardware)

    machines = [machine(amount, rate) for amount, rate in ((100, 4), (200, 20), (300, 15))]
    advise(machines, make, least_rate=5, active_bytes=10**9)
    assert [hardware.gpus[0].bandwidth_bytes_per_s for hardware in planned] == [20 * 10**9]


def test_the_bound_is_the_fastest_memory() -> None:
    gpu = Gpu("g", "NVIDIA", bandwidth_bytes_per_s=400 * 10**9)
    assert fastest_rate(replace(HERE, gpus=(gpu,)), 10**9) == 400
    assert fastest_rate(HERE, 10**9) == 80
    assert fastest_rate(replace(HERE, bandwidth_bytes_per_s=None), 10**9) is None
    assert fastest_rate(HERE, None) is None


def test_machines_of_every_kind_are_tried() -> None:
    machines = list(machines_from(HERE, "USD"))
    assert machines[0] == Machine("this", HERE)
    memory = [one.memory_bytes for one in machines if one.kind == "memory"]
    assert memory[0] == 48 * GIB and 32 * GIB not in memory
    cards = {(one.title, one.count): one for one in machines if one.kind == "cards"}
    two = cards["NVIDIA GeForce RTX 4090", 2]
    assert [gpu.total_bytes for gpu in two.hardware.gpus] == [24 * GIB] * 2
    assert (two.hardware.total_bytes, two.hardware.backends) == (HERE.total_bytes, ("cuda", "vulkan"))
    assert not [title for title, _ in cards if "Laptop" in title]
    whole = [one for one in machines if one.kind == "whole" and one.title.startswith("Apple M2 Max")]
    assert [one.memory_bytes for one in whole] == sorted(one.memory_bytes or 0 for one in whole)
    assert all(one.hardware.gpus[0].shared_bytes for one in whole)


def test_prices_are_in_the_currency_where_it_is_known_and_converted_where_not() -> None:
    known = devices.find("rtx4090")
    usd, cny = cost_of(known, 2, "USD"), cost_of(known, 1, "CNY")
    assert usd is not None and cny is not None
    assert (usd.amount % 2, usd.currency, usd.is_converted) == (0, "USD", False)
    assert (cny.currency, cny.is_converted) == ("CNY", False)
    converted = cost_of(devices.find("rtx4060"), 1, "CNY")
    assert converted is not None and converted.is_converted
    assert 299 * 6 < converted.amount < 299 * 9
    assert cost_of(devices.find("gtx1080"), 1, "USD") is None


def test_more_memory_is_all_free() -> None:
    grown = with_memory(HERE, 64 * GIB)
    assert (grown.total_bytes, grown.available_bytes) == (64 * GIB, 60 * GIB)


@pytest.mark.parametrize("budget", [None, 1000])
def test_with_the_real_planner(budget: int | None) -> None:
    model = model_of("Q4_K_M", 5 * 10**9)

    def make(hardware: Hardware) -> Plan:
        return plan(model, hardware, "llama.cpp", "generate", LoadOptions(ctx_size=8192, parallel=1), with_changes=False)

    assert model.info is not None
    machines = [one for one in machines_from(HERE, "USD") if one.title.endswith(("4060", "4090", "M2 Max"))]
    priced, _ = advise(machines, make, least_rate=20, budget=budget, active_bytes=model.info.active_bytes)
    assert priced
    rates = [item.rate for item in priced]
    assert rates == sorted(rates) and min(rates) >= 20
    assert budget is None or all(item.machine.cost and item.machine.cost.amount <= budget for item in priced)
