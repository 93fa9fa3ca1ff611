"""A place for models on this node: memory (a directory on tmpfs) or local disk, with a limit on what it may take.

    ROOT/org--model/REVISION/                  readable by those who may read the model
    ROOT/org--model/REVISION/model.safetensors … the files, root's
    ROOT/org--model/REVISION/.slurmext/manifest, ready, pins
    ROOT/.spare/                               faulted-in files of models given up, reused for the next

A directory that was being made when the agent died is named `.new-…` and is removed at start.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from slurmext.staging.access import Access, restrict
from slurmext.staging.errors import NoRoom, StagingError
from slurmext.staging.kinds import TierKind
from slurmext.staging.manifest import Manifest, parse_manifest
from slurmext.staging.names import OWN, ModelKey
from slurmext.staging.store.evict import Resident, victims
from slurmext.staging.store.spare import Spares
from slurmext.staging.store.staged import StagedModel

log = logging.getLogger(__name__)

_NEW: Final = ".new-"
_SLACK: Final = 64 << 20
"""Room left on the file system for what else lives there."""


class Tier:
    """The models below `root`, which is made when it is missing. One agent has it open at a time."""

    def __init__(
        self, root: Path, kind: TierKind, *, capacity_bytes: int, spare_bytes: int = 0, refetch_bytes_per_s: float = 1e8
    ) -> None:
        self.root = root
        self.kind = kind
        self.capacity_bytes = capacity_bytes
        self._refetch_bytes_per_s = refetch_bytes_per_s
        self._lock = threading.RLock()
        self._models: dict[ModelKey, StagedModel] = {}
        self._uses: dict[ModelKey, int] = {}
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        root.chmod(0o755)
        self._spares = Spares(root / ".spare", limit_bytes=spare_bytes if kind is TierKind.MEMORY else 0)
        self._find()

    def models(self) -> Mapping[ModelKey, StagedModel]:
        """What is here, whole or in part."""
        with self._lock:
            return dict(self._models)

    def get(self, key: ModelKey) -> StagedModel | None:
        """A model, whole or in part; None when nothing of it is here."""
        with self._lock:
            return self._models.get(key)

    @property
    def used_bytes(self) -> int:
        """Bytes that models take, those still being received included."""
        with self._lock:
            return sum(staged.manifest.size for staged in self._models.values())

    def path_of(self, key: ModelKey) -> Path:
        """Where a model's files are, or would be."""
        return self.root / key.slug / key.revision

    def _draft_of(self, key: ModelKey) -> Path:
        final = self.path_of(key)
        return final.with_name(f"{_NEW}{final.name}")

    def create(self, manifest: Manifest, access: Access, *, owner: int = 0) -> StagedModel:
        """Make room for a model and its files, or return what is already here. Raises NoRoom, StagingError.

        It is `owner`'s, and `access` says who may read it.

        What else is here is evicted, cheapest first; pinned models are not.
        """
        with self._lock:
            fingerprint = manifest.fingerprint()
            if held := self._models.get(manifest.key):
                if held.fingerprint == fingerprint:
                    # Nobody is let in for a moment while that is set anew, and jobs open files at any time.
                    if (held.access, held.owner) != (access, owner):
                        self._give(held, access, owner)
                    held.fault = None
                    return held
                self.evict(manifest.key)
            self._make_room(manifest)
            staged = None
            try:
                directory = self._lay_out(manifest, access)
                staged = StagedModel(directory, manifest, fingerprint, durable=self.kind is TierKind.DISK)
                self._give(staged, access, owner)
            except (OSError, StagingError) as error:
                if staged is not None:
                    staged.close()
                for half in (self._draft_of(manifest.key), self.path_of(manifest.key)):
                    self._remove(half)
                if isinstance(error, StagingError):
                    raise
                raise NoRoom(f"{self.root}: {manifest.key} cannot be laid out: {error.strerror}") from error
            self._models[manifest.key] = staged
            self._uses[manifest.key] = 0
            return staged

    def _give(self, staged: StagedModel, access: Access, owner: int) -> None:
        restrict(staged.directory, access)
        staged.access, staged.owner = access, owner
        (staged.directory / OWN / "owner").write_text(f"{owner} {access.uid} {access.gid}\n", encoding="ascii")

    def used(self, key: ModelKey) -> None:
        """Note that a job uses the model: what is used is worth keeping."""
        with self._lock:
            if staged := self._models.get(key):
                staged.used_s = time.time()
                self._uses[key] = self._uses.get(key, 0) + 1

    def pin(self, key: ModelKey, holder: str) -> bool:
        """Keep the model while `holder` (a job, an administrator) needs it; False when it is not here."""
        with self._lock:
            staged = self._models.get(key)
            if staged is None:
                return False
            staged.pins.add(holder)
            self._save_pins(staged)
            return True

    def unpin(self, key: ModelKey, holder: str) -> None:
        """`holder` needs it no longer."""
        with self._lock:
            if staged := self._models.get(key):
                staged.pins.discard(holder)
                self._save_pins(staged)

    def evict(self, key: ModelKey) -> None:
        """Remove a model. Raises StagingError when it is pinned."""
        with self._lock:
            staged = self._models.get(key)
            if staged is None:
                return
            if staged.pins:
                raise StagingError(f"{key} is pinned by {', '.join(sorted(staged.pins))}: unpin it first")
            del self._models[key]
            self._uses.pop(key, None)
            staged.fail("evicted")
            staged.close()
            self._remove(staged.directory)

    def close(self) -> None:
        """Flush and let go of everything; the files stay."""
        with self._lock:
            for staged in self._models.values():
                if not staged.settled and staged.fault is None:
                    try:
                        staged.flush()
                    except NoRoom as error:
                        log.warning("%s", error)
                staged.close()
            self._models.clear()

    def _make_room(self, manifest: Manifest) -> None:
        if manifest.size > self.capacity_bytes:
            raise NoRoom(
                f"{manifest.key} has {manifest.size >> 20} MiB, the {self.kind} tier {self.capacity_bytes >> 20} MiB:"
                " give it more room or stage to another tier"
            )
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize - _SLACK
        needed = max(
            self.used_bytes + manifest.size - self.capacity_bytes, manifest.size - free - self._spares.total_bytes
        )
        now_s = time.time()
        chosen = victims([self._resident(key) for key in self._models], needed, now_s)
        if chosen is None:
            raise NoRoom(
                f"{manifest.key} needs {manifest.size >> 20} MiB of the {self.kind} tier at {self.root}, and what is"
                " there is pinned or not enough: wait for jobs to end, or unpin a model"
            )
        for resident in chosen:
            name, _, revision = resident.name.partition("@")
            log.info("evicting %s for %s", resident.name, manifest.key)
            self.evict(ModelKey(name, revision))
        self._spares.shrink(keep_free=manifest.size, free=free)

    def _resident(self, key: ModelKey) -> Resident:
        staged = self._models[key]
        return Resident(
            name=str(key),
            size=staged.manifest.size,
            pinned=bool(staged.pins),
            used_s=staged.used_s,
            uses=1 + self._uses.get(key, 0),
            refetch_bytes_per_s=self._refetch_bytes_per_s,
        )

    def _lay_out(self, manifest: Manifest, access: Access) -> Path:
        final = self.path_of(manifest.key)
        final.parent.mkdir(mode=0o755, exist_ok=True)
        draft = self._draft_of(manifest.key)
        shutil.rmtree(draft, ignore_errors=True)
        (draft / OWN).mkdir(parents=True, mode=0o755)
        restrict(draft, access)
        (draft / OWN).chmod(0o755)
        for entry in manifest.files:
            path = draft / entry.name
            for folder in reversed(path.relative_to(draft).parents[:-1]):
                (draft / folder).mkdir(exist_ok=True)
                (draft / folder).chmod(0o755)
            self._spares.take(path, entry.size)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                os.fchmod(descriptor, 0o644)
                os.ftruncate(descriptor, entry.size)
                if self.kind is TierKind.DISK and entry.size:
                    # A full disk shows here, not as a fault while receiving into the mapping.
                    os.posix_fallocate(descriptor, 0, entry.size)
            finally:
                os.close(descriptor)
        (draft / OWN / "manifest").write_bytes(manifest.dump())
        if self.kind is TierKind.DISK:
            _sync_tree(draft)
        draft.rename(final)
        return final

    def _save_pins(self, staged: StagedModel) -> None:
        path = staged.directory / OWN / "pins"
        draft = path.with_name(".pins.new")
        draft.write_text("".join(f"{holder}\n" for holder in sorted(staged.pins)), encoding="utf-8")
        draft.replace(path)

    def _find(self) -> None:
        for folder in sorted(self.root.iterdir()):
            if folder.name.startswith(".") or folder.is_symlink() or not folder.is_dir():
                continue
            for directory in sorted(folder.iterdir()):
                try:
                    staged = self._reopen(directory)
                except (StagingError, FileNotFoundError) as error:
                    log.warning("%s is removed: %s", directory, error)
                    staged = None
                except OSError as error:  # too many open files, a disk that does not answer now: no reason to lose it
                    log.warning("%s is left alone: %s", directory, error)
                    continue
                if staged is None:
                    shutil.rmtree(directory, ignore_errors=True)
                else:
                    self._models[staged.key] = staged

    def _reopen(self, directory: Path) -> StagedModel | None:
        if directory.name.startswith(_NEW) or directory.is_symlink():
            return None
        raw = (directory / OWN / "manifest").read_bytes()
        manifest = parse_manifest(raw)
        if self.path_of(manifest.key) != directory:
            return None
        staged = StagedModel(directory, manifest, manifest.fingerprint(), durable=self.kind is TierKind.DISK)
        try:
            staged.pins.update((directory / OWN / "pins").read_text(encoding="utf-8").split("\n"))
            staged.pins.discard("")
        except FileNotFoundError:
            pass
        with suppress(OSError, ValueError):
            words = (directory / OWN / "owner").read_text(encoding="ascii").split()
            owner, uid, gid = (None if word == "None" else int(word) for word in words)
            staged.access, staged.owner = Access(uid=uid, gid=gid), owner
        return staged

    def _remove(self, directory: Path) -> None:
        with suppress(OSError):
            # Those who read the next model before it is complete see what was in the file: never a private one's.
            if directory.stat().st_mode & 0o005 == 0o005:  # noqa: PLR2004
                self._spares.give(path for path in directory.rglob("*") if path.is_file() and path.parent.name != OWN)
        shutil.rmtree(directory, ignore_errors=True)


def _sync_tree(directory: Path) -> None:
    for path in [*(path for path in directory.rglob("*") if path.is_dir() or path.parent.name == OWN), directory]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
