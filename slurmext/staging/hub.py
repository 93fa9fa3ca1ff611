"""Models of the Hugging Face hub: in its cache on this machine, or fetched into it where the site has internet."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from slurmext.staging.errors import BadModel, BadReference, StagingError

PREFIX: Final = "hub:"
_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def cache_directory() -> Path:
    """Where the hub's libraries keep models: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if place := os.environ.get("HF_HUB_CACHE"):
        return Path(place).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def cached(repo: str, *, cache: Path | None = None) -> Path:
    """The cache's directory of a model `org/name`, whether it is there or not. Raises BadReference."""
    if not _REPO.fullmatch(repo):
        raise BadReference(f"{PREFIX}{repo}: a model of the hub is named ORG/NAME, for example {PREFIX}org/model")
    return (cache or cache_directory()) / f"models--{repo.replace('/', '--')}"


def fetch(repo: str, revision: str | None = None, *, cache: Path | None = None, download: Any = None) -> Path:
    """Fetch a model into the hub's cache; returns its directory there. Raises StagingError.

    `download` is huggingface_hub.snapshot_download, which asks for HF_TOKEN where a model needs it.
    """
    directory = cached(repo, cache=cache)
    if download is None:
        try:
            from huggingface_hub import snapshot_download as download  # noqa: PLC0415  only where it is installed
        except ImportError as error:
            raise StagingError(
                f"{directory} is not there, and fetching it needs the Python package huggingface_hub:"
                " pip install huggingface_hub"
            ) from error
    try:
        download(repo_id=repo, revision=revision, cache_dir=str(directory.parent))
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise StagingError(f"{PREFIX}{repo} could not be fetched: {words}") from error
    return directory


def hub_source(text: str, revision: str | None, *, download: bool, cache: Path | None = None) -> Path:
    """What `hub:org/name` means: its directory in the cache, fetched first with `download`. Raises StagingError."""
    repo = text.removeprefix(PREFIX)
    directory = cached(repo, cache=cache)
    if download:
        return fetch(repo, revision, cache=cache)
    if not (directory / "snapshots").is_dir():
        raise BadModel(f"{repo} is not in the hub's cache ({directory}): --download fetches it first")
    return directory
