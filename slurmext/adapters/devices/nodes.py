"""The capability nodes of MIG instances: /dev/nvidia-caps/nvidia-capN, two for each instance.

Left alone they are readable for everybody, and nvidia-modprobe makes them so again for whoever uses NVML as root.
`DeviceFileModify: 0` in the instance's file under /proc stops that, for as long as the instance lives; the nodes
themselves outlive it (open-gpu-kernel-modules, nv-caps.c).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from slurmext.errors import DeviceAccessError
from slurmext.model.mig import GpuCard, MigInstance

_MODIFY = re.compile(r"DeviceFileModify:\s*0\b")
_MINOR_LINE = re.compile(r"^(gpu\d+/\S+) (\d+)$", re.MULTILINE)
_MAJOR_LINE = re.compile(r"^ *(\d+) nvidia-caps$", re.MULTILINE)
_CAPS = "nvidia-caps"
_NOBODY_MODE, _OWNER_MODE = 0o000, 0o400


class CapabilityNodes:
    """Under `root` are the driver's /proc and /dev."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._minors: dict[str, int] = {}

    def minors(self, card: GpuCard, instance: MigInstance) -> tuple[int, ...]:
        """Of the GPU instance and its compute instance. Raises DeviceAccessError."""
        return tuple(self._minor(place) for place in _places(card, instance))

    def give(self, card: GpuCard, instance: MigInstance, uid: int) -> None:
        """Only `uid` (and root) may open the instance from now on. Raises DeviceAccessError."""
        fresh = False
        for place in _places(card, instance):
            fresh |= self._keep_hands_off(place)
            self._own(self._minor(place), uid, _OWNER_MODE, make=True)
        # Until now anybody could have opened it and would keep it open.
        if fresh and (others := self._holders(self.minors(card, instance), uid)):
            self.take(card, instance)
            pids = ", ".join(map(str, others))
            raise DeviceAccessError(f"processes of another user opened the new instance before it was theirs: {pids}")

    def take(self, card: GpuCard, instance: MigInstance) -> None:
        """Only root may open the instance. What is gone is left alone. Raises DeviceAccessError."""
        for place in _places(card, instance):
            with suppress(FileNotFoundError):
                self._keep_hands_off(place)
            with suppress(FileNotFoundError):
                self._own(self._minor(place), 0, _OWNER_MODE, make=False)

    def major(self) -> int | None:
        """Of the capability nodes; None where the driver has none."""
        for minor in (1, 2):
            with suppress(OSError):
                found = os.lstat(self._root / "dev" / _CAPS / f"nvidia-cap{minor}")
                return os.major(found.st_rdev) if stat.S_ISCHR(found.st_mode) else None
        with suppress(OSError):
            listed = _MAJOR_LINE.search((self._root / "proc/devices").read_text(encoding="ascii"))
            return int(listed[1]) if listed else None
        return None

    def _minor(self, place: str) -> int:
        """The driver's numbers are the same until it is loaded anew."""
        if not self._minors:
            path = self._root / "proc/driver" / _CAPS / "mig-minors"
            try:
                text = path.read_text(encoding="ascii")
            except OSError as error:
                raise DeviceAccessError(f"{path}: {error.strerror}; is the NVIDIA driver loaded?") from error
            self._minors = {found[1]: int(found[2]) for found in _MINOR_LINE.finditer(text)}
        try:
            return self._minors[f"{place}/access"]
        except KeyError:
            raise DeviceAccessError(f"the driver has no capability {place}/access (mig-minors)") from None

    def _keep_hands_off(self, place: str) -> bool:
        """Let nvidia-modprobe leave the node alone; True if it did not so far. Raises FileNotFoundError: it is gone."""
        gpu, _, rest = place.partition("/")
        folders = ["proc", "driver", "nvidia", "capabilities", gpu, "mig", *rest.split("/")]
        try:
            with self._folder(folders) as folder:
                file = os.open("access", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                with os.fdopen(file, encoding="ascii") as known:
                    if _MODIFY.search(known.read()):
                        return False
                file = os.open("access", os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                with os.fdopen(file, "w", encoding="ascii") as changed:
                    changed.write("DeviceFileModify: 0\n")
                return True
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DeviceAccessError(f"{'/'.join(folders)}/access: {error.strerror}") from error

    def _own(self, minor: int, uid: int, mode: int, *, make: bool) -> None:
        name = f"nvidia-cap{minor}"
        try:
            if make:
                self._make_folder_if_missing()
            with self._folder(["dev", _CAPS]) as folder:
                if make:
                    self._make_if_missing(folder, name, minor)
                node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    self._check(node, name, minor)
                    itself = Path(f"/proc/self/fd/{node}")  # an O_PATH descriptor takes no fchmod
                    itself.chmod(_NOBODY_MODE)
                    os.chown(itself, uid, 0)
                    itself.chmod(mode)
                finally:
                    os.close(node)
        except FileNotFoundError:
            if make:
                raise DeviceAccessError(f"/dev/{_CAPS}/{name} is not there and cannot be made") from None
            raise
        except OSError as error:
            raise DeviceAccessError(f"/dev/{_CAPS}/{name}: {error.strerror}") from error

    def _make_folder_if_missing(self) -> None:
        """NVML makes it when it first opens a capability, which need not have happened."""
        with self._folder(["dev"]) as folder, suppress(FileExistsError):
            os.mkdir(_CAPS, 0o755, dir_fd=folder)

    def _make_if_missing(self, folder: int, name: str, minor: int) -> None:
        major = self.major()
        if major is not None:
            with suppress(FileExistsError):
                os.mknod(name, stat.S_IFCHR | _NOBODY_MODE, os.makedev(major, minor), dir_fd=folder)

    def _check(self, node: int, name: str, minor: int) -> None:
        found = os.fstat(node)
        if stat.S_ISCHR(found.st_mode):
            if os.minor(found.st_rdev) != minor:
                raise DeviceAccessError(f"/dev/{_CAPS}/{name} is the device {minor} of another driver")
        elif not stat.S_ISREG(found.st_mode) or self._root == Path("/"):
            raise DeviceAccessError(f"/dev/{_CAPS}/{name} is no device")  # elsewhere, plain files stand for devices

    @contextmanager
    def _folder(self, names: Sequence[str]) -> Iterator[int]:
        """A folder under the root, on a way without links. Raises OSError."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = os.open(self._root, flags)
        try:
            for name in names:
                inner = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def _holders(self, minors: Sequence[int], uid: int) -> list[int]:
        """Processes of users other than root and `uid` that have one of these nodes open."""
        ends = tuple(f"/dev/{_CAPS}/nvidia-cap{minor}" for minor in minors)
        found: list[int] = []
        for process in os.scandir("/proc"):
            if not process.name.isdigit():
                continue
            with suppress(OSError):  # it ended
                if process.stat(follow_symlinks=False).st_uid in {0, uid}:
                    continue
                files = os.scandir(f"/proc/{process.name}/fd")
                if any(_target(file).endswith(ends) for file in files):
                    found.append(int(process.name))
        return found


def _target(file: os.DirEntry[str]) -> str:
    try:
        return os.readlink(file.path)  # noqa: PTH115  of every file of every process: Path is slow
    except OSError:
        return ""


def _places(card: GpuCard, instance: MigInstance) -> tuple[str, ...]:
    """As mig-minors names them; the driver's `gpu0` is the GPU's minor number."""
    whole = f"gpu{card.minor}/gi{instance.gi}"
    return (whole,) if instance.ci is None else (whole, f"{whole}/ci{instance.ci}")
