"""The reference pages are what the program says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_pages_are_in_step() -> None:
    script = ROOT / "scripts" / "generate-cli-reference"
    ran = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_error_and_option_is_on_them() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for word in ("`EngineDied`", "`130`", "--ctx-size", "## zhibei completion", "`/save NAME\\|PATH`"):
        assert word in page
