"""What an installation made, written into the prefix directory, so that it can be taken out again."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

from slurmext.errors import SlurmextError

NAME = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A file of someone else as it was before slurmext."""

    content: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Paths made, files replaced (with their former selves), and the state database."""

    directories: dict[Path, bool] = field(default_factory=dict[Path, bool])
    """Directory -> whether all its content is slurmext's own data."""
    made_files: dict[Path, bool] = field(default_factory=dict[Path, bool])
    """File that was not there before -> whether it only carries our marked block (others may have added to it)."""
    replaced: dict[Path, Replaced] = field(default_factory=dict[Path, Replaced])
    edited: frozenset[Path] = frozenset()
    links: tuple[Path, ...] = ()
    database: str | None = None
    sqlite: Path | None = None
    run_dir: Path | None = None

    def made(self, directory: Path) -> bool:
        """Whether we made this directory."""
        return directory in self.directories

    def created(self, path: Path) -> bool:
        """Whether the file was not there before us."""
        return path in self.made_files

    def wrote(self, path: Path) -> bool:
        """Whether what lies there is ours."""
        return path in self.made_files or path in self.replaced

    def original(self, path: Path) -> bytes | None:
        """The content before us; None where there was no file."""
        replaced = self.replaced.get(path)
        return replaced.content if replaced else None


def load(prefix: Path) -> Manifest:
    """The manifest of a former installation, empty when there was none. Raises SlurmextError for a broken one."""
    path = prefix / NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Manifest()
    except (OSError, ValueError) as error:
        raise SlurmextError(f"{path} cannot be read ({error}): restore it from a backup before going on") from error
    return Manifest(
        directories={Path(name): bool(is_data) for name, is_data in data["directories"].items()},
        made_files={Path(name): bool(edited) for name, edited in data["made_files"].items()},
        replaced={
            Path(name): Replaced(**{**entry, "content": base64.b64decode(entry["content"])})
            for name, entry in data["replaced"].items()
        },
        edited=frozenset(Path(name) for name in data["edited"]),
        links=tuple(Path(name) for name in data["links"]),
        database=data["database"],
        sqlite=Path(data["sqlite"]) if data["sqlite"] else None,
        run_dir=Path(data["run_dir"]) if data.get("run_dir") else None,
    )


def dump(manifest: Manifest) -> bytes:
    """The manifest as it is stored."""
    data = {
        "version": 1,
        "directories": {str(path): is_data for path, is_data in manifest.directories.items()},
        "made_files": {str(path): edited for path, edited in manifest.made_files.items()},
        "replaced": {
            str(path): {
                "content": base64.b64encode(was.content).decode(), "mode": was.mode, "uid": was.uid, "gid": was.gid,
                "mtime_ns": was.mtime_ns,
            }
            for path, was in manifest.replaced.items()
        },
        "edited": sorted(str(path) for path in manifest.edited),
        "links": [str(path) for path in manifest.links],
        "database": manifest.database,
        "sqlite": str(manifest.sqlite) if manifest.sqlite else None,
        "run_dir": str(manifest.run_dir) if manifest.run_dir else None,
    }  # fmt: skip
    return json.dumps(data, indent=1).encode() + b"\n"
