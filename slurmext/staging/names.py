"""Names of models (`org/model@revision`) and of files within them, checked before they become paths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from slurmext.staging.errors import BadModel, BadReference

_PART: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._]|-(?!-)){0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_PARTS: Final = 3
_MOST_DEPTH: Final = 16
_MOST_BYTES: Final = 255
OWN: Final = ".slurmext"
"""The directory beside a staged model's files that holds what slurmext knows of them."""


@dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """One revision of one model. Raises BadReference."""

    name: str
    revision: str

    def __post_init__(self) -> None:
        check_name(self.name)
        if not _REVISION.fullmatch(self.revision):
            raise BadReference(f"revision {self.revision!r}: letters, digits, '.', '_' and '-', at most 64")

    @property
    def slug(self) -> str:
        """The name as one path component; no two names have the same, since none has `--` in it."""
        return self.name.replace("/", "--")

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"


def check_name(name: str) -> str:
    """The name, if it is a model's. Raises BadReference."""
    parts = name.split("/")
    if len(parts) > _MOST_PARTS or not all(_PART.fullmatch(part) for part in parts):
        raise BadReference(
            f"model {name!r}: must be one to three parts joined by '/' (each of letters, digits, '.', '_' and single "
            "'-', a letter or digit first, 96 at most), e.g. org/model"
        )
    return name


def parse_reference(text: str) -> tuple[str, str | None]:
    """`org/model@rev` -> (name, revision); the revision is None where none is given. Raises BadReference."""
    name, at, revision = text.partition("@")
    check_name(name)
    if not at:
        return name, None
    return name, ModelKey(name, revision).revision


def check_file_name(name: str) -> str:
    """The name, if a file of a model may have it: relative, no `..`, nothing that hides. Raises BadModel."""
    parts = name.split("/")
    bad = (
        not 1 <= len(parts) <= _MOST_DEPTH
        or any(part in {"", ".", ".."} or len(part.encode(errors="replace")) > _MOST_BYTES for part in parts)
        or parts[0] == OWN
        or "\\" in name
        or any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) < 0xE000 for letter in name)  # noqa: PLR2004
    )
    if bad or PurePosixPath(name).is_absolute():
        raise BadModel(f"file name {name!r} would leave the model's directory or hide there: rename the file")
    return name
