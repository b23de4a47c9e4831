"""Our declarations against the headers in the pinned wheel's own source distribution."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zhibei_kernels
from building import compiler, once
from ggml import TYPES

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ggml's sources, out of a source distribution that pip fetches (or one named in the environment)."""
    return next(once(tmp_path_factory, "sdist", _fetch).glob("*/thirdparty/llama.cpp/ggml"))


def _fetch(folder: Path) -> None:
    archive = os.environ.get("ZHIBEI_XLLAMACPP_SDIST")
    if archive is None:
        wanted = f"xllamacpp=={zhibei_kernels.XLLAMACPP_VERSION}"
        command = [sys.executable, "-m", "pip", "download", "--no-binary", "xllamacpp", "--no-deps", "-d", str(folder), wanted]
        subprocess.run(command, check=True, capture_output=True)
        archive = str(next(folder.glob("*.tar.gz")))
    with tarfile.open(archive) as tar:
        inside = [member for member in tar if "/ggml/" in member.name and member.name.endswith((".h", "CMakeLists.txt"))]
        tar.extractall(folder, members=inside, filter="data")


def test_every_size_offset_and_slot(headers: Path, tmp_path: Path) -> None:
    program = tmp_path / "abi_check"
    folders = [SOURCE, headers / "include", headers / "src", headers / "src" / "ggml-cpu"]
    flags = ["-std=c++17", "-O0", "-Wno-invalid-offsetof", "-Wno-enum-compare", *(f"-I{folder}" for folder in folders)]
    command = [compiler("c++"), *flags, str(HERE / "abi_check.cpp"), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_the_version_is_the_one_in_the_distribution(headers: Path) -> None:
    text = (headers / "CMakeLists.txt").read_text()
    parts = [re.search(rf"set\(GGML_VERSION_{part} (\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    version = ".".join(part.group(1) for part in parts if part is not None)
    assert version == zhibei_kernels.GGML_VERSION
    assert f'VERSION = "{version}"' in (SOURCE / "ggml_abi.h").read_text()


def test_every_format_has_ggmls_type_and_block(headers: Path) -> None:
    types = dict(re.findall(r"GGML_TYPE_(\w+)\s*=\s*(\d+)", (headers / "include" / "ggml.h").read_text()))
    described = dict(re.findall(r"struct (\w+) \{\s*static constexpr int TYPE = (\d+)", (SOURCE / "formats.h").read_text()))
    assert described == {name: types[name] for name in described}
    assert set(described) == set(TYPES)
