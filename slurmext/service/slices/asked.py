"""What a job of slices asked for, as the variables that its options would have set in its environment. Pure."""

from __future__ import annotations

from slurmext.model.cluster import Annotation


def asked(annotation: Annotation | None) -> dict[str, str]:
    """By variable. A job that named a size has nothing of that in its environment by itself."""
    if annotation is None or not annotation.sliced:
        return {}
    if annotation.slice_profile is not None:
        count = "" if annotation.slice_count is None else f":{annotation.slice_count}"
        return {"SLURMEXT_GPU_SLICE": f"{annotation.slice_profile}{count}"}
    if annotation.share_pct is not None:
        return {"SLURMEXT_GPU_SHARE": f"{annotation.share_pct}%,mem={annotation.gpu_mem_mib}M"}
    need = {
        "SLURMEXT_GPU_MEM": None if annotation.gpu_mem_mib is None else f"{annotation.gpu_mem_mib}M",
        "SLURMEXT_GPU_COMPUTE": None if annotation.gpu_compute_pct is None else f"{annotation.gpu_compute_pct}%",
    }
    return {name: value for name, value in need.items() if value is not None}
