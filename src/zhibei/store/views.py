"""Directories that show a model's blobs under the files' own names, for engines that go by names: shards, safetensors.

A view is made of links to the blobs and can be made again at any time; it owns no bytes. Its name follows from what it shows,
so that copies of a model share one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from zhibei.store import owners
from zhibei.store.blobs import BlobStore
from zhibei.store.disk import Disk, translate
from zhibei.store.filenames import check_relative
from zhibei.store.manifests import Manifest, ManifestFile

_NAMED_ROLES = ("shard", "weights", "config")
_OWN_NAME = re.compile(r"[0-9a-f]{32}|\.[0-9a-f-]+\.tmp", re.ASCII)


def needs_view(manifest: Manifest) -> bool:
    """Whether an engine has to find the files by their names."""
    return not manifest.in_place and any(file.role in _NAMED_ROLES for file in manifest.files)


class Views:
    """The views under a home. Making one of these changes nothing on the disk."""

    def __init__(self, home: Path, blobs: BlobStore, disk: Disk) -> None:
        self._home = home
        self._root = home / "views"
        self._blobs = blobs
        self._disk = disk

    def directory(self, manifest: Manifest) -> Path:
        """Where the view of a model lies, or would."""
        import hashlib

        shown = sorted((file.name, str(file.digest)) for file in manifest.files)
        return self._root / hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:32]

    def path(self, manifest: Manifest, file: ManifestFile) -> Path:
        """Where a view shows a file."""
        return self.directory(manifest).joinpath(*check_relative(file.name).parts)

    def ensure(self, manifest: Manifest) -> Path:
        """Make the view of a model whose blobs are all there, or mend it.

        Raises:
            StoreError: the disk does not allow it.
        """
        target = self.directory(manifest)
        if all(self._shows(manifest, file) for file in manifest.files):
            return target
        import shutil

        made = self._root / f".{owners.new_token()}.tmp"
        try:
            self._fill(made, manifest)
            if target.is_symlink() or target.is_file():
                self._disk.remove(target)
            shutil.rmtree(target, ignore_errors=True)
            with contextlib.suppress(FileExistsError):
                self._disk.rename_directory(made, target)
        except OSError as error:
            # Another process may have put its own there in the meantime.
            if not all(self._shows(manifest, file) for file in manifest.files):
                raise translate(error, self._home, self._disk) from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return target

    def stale(self, manifests: Collection[Manifest]) -> Iterator[Path]:
        """Views that show no model any more, and what was left half made. What others put there is none of them."""
        wanted = {self.directory(manifest).name for manifest in manifests if needs_view(manifest)}
        with contextlib.suppress(OSError):
            for path in sorted(self._root.iterdir()):
                is_ours = _OWN_NAME.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()
                is_growing = path.name.endswith(".tmp") and owners.is_alive(path.name[1 : -len(".tmp")], path)
                if is_ours and path.name not in wanted and not is_growing:
                    yield path

    def tidy(self, manifests: Collection[Manifest]) -> None:
        """Remove the stale ones, as far as the system allows."""
        import shutil

        for path in self.stale(manifests):
            shutil.rmtree(path, ignore_errors=True)

    def _shows(self, manifest: Manifest, file: ManifestFile) -> bool:
        try:
            return file.digest is not None and self.path(manifest, file).samefile(self._blobs.path(file.digest))
        except OSError:
            return False

    def _fill(self, made: Path, manifest: Manifest) -> None:
        for file in manifest.files:
            assert file.digest is not None
            link = made.joinpath(*check_relative(file.name).parts)
            self._disk.make_directories(link.parent)
            blob = self._blobs.path(file.digest)
            try:
                self._disk.link(blob, link)
            except OSError:
                # A file system without hard links; relative, so that the home can be moved.
                link.symlink_to(os.path.relpath(blob, self._root / made.name / link.relative_to(made).parent))
