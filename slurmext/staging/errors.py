"""What can go wrong with a model's files; each message names the value, the rule and the remedy."""

from __future__ import annotations

from slurmext.errors import SlurmextError, UsageError


class StagingError(SlurmextError):
    """A model cannot be imported, staged or loaded; the message says why and what to do."""


class BadModel(StagingError):
    """The files are not what they should be (corrupt, cut off, or named so that they would leave their directory)."""


class BadReference(StagingError, UsageError):
    """Not the name of a model: write `org/model` or `org/model@revision`."""


class BadManifest(StagingError):
    """A manifest that was damaged or made by something else; import the model again."""


class NoRoom(StagingError):
    """The model does not fit: evict or unpin others, or give the tier more room."""


class NotStaged(StagingError):
    """The model is not on this node; stage it, or load it from where it is stored."""


class UnknownModel(StagingError):
    """No such model or revision that the asker may read; the nearest are named."""


class NameTaken(StagingError):
    """Another model has this name, or this revision has other content: choose another name or revision."""
