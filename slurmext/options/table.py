"""All options, in the order in which they are shown and annotated."""

from __future__ import annotations

from slurmext.options.checkpoints import CKPT, CKPT_DIR
from slurmext.options.models import PRELOAD
from slurmext.options.placing import GANG_MIN, GPU_TYPES, NO_PREEMPT, QUEUE, SIZE
from slurmext.options.row import Option
from slurmext.options.slices import GPU_COMPUTE, GPU_MEM, GPU_OOM_RETRY, GPU_SHARE, GPU_SLICE

OPTIONS: tuple[Option, ...] = (
    QUEUE,
    CKPT,
    CKPT_DIR,
    GPU_TYPES,
    GANG_MIN,
    GPU_SLICE,
    GPU_MEM,
    GPU_COMPUTE,
    GPU_SHARE,
    GPU_OOM_RETRY,
    SIZE,
    PRELOAD,
    NO_PREEMPT,
)
BY_NAME = {option.name: option for option in OPTIONS}
