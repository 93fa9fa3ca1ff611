"""Why a job of slices waits, where the plan has no numbers to go with it."""

from __future__ import annotations

from slurmext.model.plan import Reason

SLICE_SENTENCES: dict[Reason, str] = {
    Reason.SLICE_UNKNOWN: "no GPU it may use can be cut or shared as it asks",
    Reason.SLICE_AMBIGUOUS: "the profile it names has different sizes on the GPUs it may use",
    Reason.SLICE_TOO_LARGE: "the nodes could not hold what it asks for, even if nothing ran there",
    Reason.SLICE_FULL: "every place for its slices is in use",
    Reason.SLICE_FRAGMENTED: "enough of the GPUs is free, but in pieces that cannot be joined to its slices",
    Reason.SLICE_HELD: "the free places are held for jobs that waited longer",
    Reason.SLICE_TAKING_GPU: "an idle GPU is being made ready for it",
    Reason.SLICE_POOL: "the policy lets no more GPUs be cut into slices now",
    Reason.SLICE_NODE: "where a place is free, its CPUs or its memory are not",
    Reason.SLICE_MISSED: "the slice reserved for it could not be made; it gets another place",
}
