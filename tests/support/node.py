"""Programs for node that use the official JavaScript clients: their packages, and one run of a script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

LOCKED = Path(__file__).parent.parent / "wire" / "js"
_INSTALL_S, _RUN_S = 240, 60


def install_packages(directory: Path) -> Path:
    """Install what ``tests/wire/js`` locks into a directory; returns it."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(LOCKED / name, directory / name)
    command = [_program("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    assert done.returncode == 0, done.stderr
    return directory


def run_node(script: str, packages_dir: Path, **values: str) -> Any:
    """Run an ES module's text; what it hands to ``give(value)`` is returned. ``values`` are its ``given``.

    Args:
        script: may import what is installed in ``packages_dir``, and may await at its top level.
    """
    head = (
        "const given = JSON.parse(process.env.GIVEN);\n"
        "const give = (value) => process.stdout.write(JSON.stringify(value) + '\\n');\n"
    )
    done = subprocess.run(
        [_program("node"), "--input-type=module", "-"],
        input=head + script,
        cwd=packages_dir,
        env={**os.environ, "GIVEN": json.dumps(values)},
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is needed for the tests of the JavaScript clients"
    return found
