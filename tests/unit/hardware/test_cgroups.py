"""What a container may use: trees as the kernel shows them, versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from zhibei.hardware.cgroups import MemoryLimit, cpu_limit, memory_limits

GIB = 1 << 30
NO_LIMIT_V1 = 9223372036854771712


class Tree:
    """A made-up ``/sys/fs/cgroup`` and ``/proc/self/cgroup``."""

    def __init__(self, path: Path) -> None:
        self.root = path / "cgroup"
        self.membership = path / "membership"
        self.root.mkdir()

    def write(self, membership: str, **files: object) -> None:
        self.membership.write_text(membership, encoding="utf-8")
        for name, text in files.items():
            self.file(name, text)

    def file(self, name: str, text: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")

    def memory(self) -> list[MemoryLimit]:
        return memory_limits(self.root, self.membership)

    def cpu(self) -> int | None:
        return cpu_limit(self.root, self.membership)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_no_control_groups_at_all(tree: Tree) -> None:
    assert (tree.memory(), tree.cpu()) == ([], None)


def test_version_2_in_a_container(tree: Tree) -> None:
    """Docker with a namespace: the container's group is the root."""
    tree.write("0::/\n")
    tree.file("memory.max", 4 * GIB)
    tree.file("memory.current", 3 * GIB)
    tree.file("memory.stat", f"anon 1\nfile 2\nactive_file 5\ninactive_file {GIB}\nshmem 0")
    tree.file("cpu.max", "200000 100000")
    assert tree.memory() == [MemoryLimit(4 * GIB, 2 * GIB)]
    assert tree.cpu() == 2


def test_version_2_without_a_limit(tree: Tree) -> None:
    tree.write("0::/\n")
    for name, text in (("memory.max", "max"), ("memory.current", GIB), ("cpu.max", "max 100000")):
        tree.file(name, text)
    assert (tree.memory(), tree.cpu()) == ([], None)


def test_version_2_in_a_service_counts_the_groups_above(tree: Tree) -> None:
    tree.write("0::/user.slice/zhibei.service\n")
    tree.file("user.slice/zhibei.service/memory.max", "max")
    tree.file("user.slice/zhibei.service/cpu.max", "400000 100000")
    tree.file("user.slice/memory.max", 2 * GIB)
    tree.file("user.slice/memory.current", GIB)
    tree.file("user.slice/cpu.max", "350000 100000")
    assert tree.memory() == [MemoryLimit(2 * GIB, GIB)]
    assert tree.cpu() == 3, "a share of a core does not count"


def test_version_1_in_a_container_of_another_namespace(tree: Tree) -> None:
    """The host's path is not to be seen; what is mounted is the container's own group."""
    tree.write("12:memory:/docker/0123abcd\n5:cpu,cpuacct:/docker/0123abcd\n1:name=systemd:/docker/0123abcd\n")
    tree.file("memory/memory.limit_in_bytes", 2 * GIB)
    tree.file("memory/memory.usage_in_bytes", GIB)
    tree.file("memory/memory.stat", f"cache 9\ninactive_file 7\nhierarchical_memory_limit 1\ntotal_inactive_file {GIB // 2}")
    tree.file("cpu/cpu.cfs_quota_us", 50_000)
    tree.file("cpu/cpu.cfs_period_us", 100_000)
    assert tree.memory() == [MemoryLimit(2 * GIB, GIB // 2)]
    assert tree.cpu() == 1


def test_version_1_of_this_group_and_the_root(tree: Tree) -> None:
    tree.write("9:name=systemd:/\n4:memory:/jobs/7\n1:cpu:/\n0::/\n")
    tree.file("memory/memory.limit_in_bytes", NO_LIMIT_V1)
    tree.file("memory/memory.usage_in_bytes", 5 * GIB)
    tree.file("memory/jobs/7/memory.limit_in_bytes", GIB)
    tree.file("memory/jobs/7/memory.usage_in_bytes", 1000)
    tree.file("memory/jobs/7/memory.stat", "inactive_file 400")
    tree.file("cpu/cpu.cfs_quota_us", -1)
    tree.file("cpu/cpu.cfs_period_us", 100_000)
    assert tree.memory() == [MemoryLimit(GIB, 600), MemoryLimit(NO_LIMIT_V1, 5 * GIB)]
    assert tree.cpu() is None


def test_more_cache_than_use_is_no_use(tree: Tree) -> None:
    tree.write("0::/\n")
    tree.file("memory.max", GIB)
    tree.file("memory.current", 10)
    tree.file("memory.stat", "inactive_file 20")
    assert tree.memory() == [MemoryLimit(GIB, 0)]


def test_a_limit_whose_use_is_not_known(tree: Tree) -> None:
    tree.write("0::/\n")
    tree.file("memory.max", GIB)
    assert tree.memory() == [MemoryLimit(GIB, None)]


@pytest.mark.parametrize(
    "membership", ["", "nonsense", "0:/", "0::relative", "0::/../../elsewhere\n", "x::/\n", "0::/a/../../b\n", "\x00\xff"]
)
def test_a_membership_that_cannot_be_read(tree: Tree, membership: str) -> None:
    tree.write(membership)
    tree.file("memory.max", GIB)
    (tree.root.parent / "memory.max").write_text("1\n", encoding="utf-8")
    assert tree.memory() == [MemoryLimit(GIB, None)]


@pytest.mark.parametrize("text", ["", "x", "-1", "100000", "0 0", "100000 0", "1 2 3", "max"])
def test_quotas_that_say_nothing(tree: Tree, text: str) -> None:
    tree.write("0::/\n")
    tree.file("cpu.max", text)
    assert tree.cpu() is None


@pytest.mark.parametrize(
    ("text", "cores"), [("10000 100000", 1), ("100000 100000", 1), ("199999 100000", 1), ("6400000 100000", 64)]
)
def test_quotas(tree: Tree, text: str, cores: int) -> None:
    tree.write("0::/\n")
    tree.file("cpu.max", text)
    assert tree.cpu() == cores
