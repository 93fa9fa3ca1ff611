"""The line job_submit.lua writes into a managed job's admin comment (users cannot write that field)."""

from __future__ import annotations

from urllib.parse import unquote

from slurmext.model.cluster import Annotation

PREFIX = "slurmext/1 "


def parse(comment: str) -> Annotation | None:
    """The annotation, None for a comment that is not ours. Keys of later versions are passed over."""
    start = comment.find(PREFIX)
    if start < 0:
        return None
    values = dict[str, str]()
    for word in comment[start + len(PREFIX) :].split():
        key, found, value = word.partition("=")
        if found:
            values.setdefault(key, unquote(value))
    gang_min = values.get("gang_min", "")
    profile, _, count = values.get("slice", "").partition(":")
    percent, _, memory = values.get("share", "").partition(",")
    return Annotation(
        queue=values.get("queue") or None,
        ckpt=values.get("ckpt") or None,
        ckpt_dir=values.get("ckpt_dir") or None,
        types=tuple(kind for kind in values.get("types", "").split(",") if kind),
        gang_min=int(gang_min) if gang_min.isdigit() else None,
        slice_profile=profile or None,
        slice_count=_number(count),
        gpu_mem_mib=_number(memory or values.get("gpu_mem", "")),
        gpu_compute_pct=_number(values.get("gpu_compute", "")),
        share_pct=_number(percent),
        oom_retry=values.get("oom") == "retry",
        preload=tuple(model for model in values.get("preload", "").split(",") if model),
        preemptible=values.get("preempt") != "no",
        held=values.get("held") != "0",
        user_hold=values.get("user_hold") == "1",
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
