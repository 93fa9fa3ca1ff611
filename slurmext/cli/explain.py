"""The text of `slurmext job explain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slurmext.cli.explain_head import head
from slurmext.cli.explain_slices import slices, slices_had
from slurmext.cli.formats import clock, size, span
from slurmext.cli.reasons import words_for
from slurmext.model.amounts import counted

Answer = Mapping[str, Any]


def as_data(answer: Answer) -> dict[str, Any]:
    """The answer with the reason's words, for programs."""
    words = words_for(answer["job"]["reason"] or "")
    extra = {} if words is None else {"meaning": words.meaning, "remedy": words.remedy}
    return {**answer, **extra}


def as_text(answer: Answer) -> list[str]:
    """Lines for a person."""
    return [
        _clean(line)
        for part in (
            head,
            _left_to_slurm,
            slices,
            slices_had,
            _notices,
            _why,
            _when,
            _losses,
            _saved,
            _reasons,
            _timeline,
        )
        for line in part(answer)
    ]


def _clean(line: str) -> str:
    return "".join(character if character.isprintable() else " " for character in line)


def _left_to_slurm(answer: Answer) -> Iterator[str]:
    """What a heterogeneous job gets, and what not."""
    if not answer.get("left_to_slurm"):
        return
    ckpt = answer["job"]["ckpt"]
    yield ""
    yield "Left to Slurm"
    yield "  It is a heterogeneous job: queues do not take it, Slurm alone starts it, and nobody is evicted for it."
    if ckpt is None:
        yield "  It was submitted without --ckpt: nothing tells it to save."
        return
    if ckpt.endswith(",chain"):
        yield f"  --ckpt={ckpt}: near its time limit all components are told to save, then it is requeued and goes on."
    else:
        yield f"  --ckpt={ckpt}: with ',chain' it would be told to save near its time limit, and go on in another run."
    yield "  Requeued by Slurm, after a failed node say, it goes on from what it saved last."


def _why(answer: Answer) -> Iterator[str]:
    job = answer["job"]
    for action in answer["being_evicted"]:
        yield ""
        yield "Leaving"
        words = words_for(action["reason"])
        yield f"  {action['reason']}: {action['message'] or (words.meaning if words else '')}"
        done = {
            "intent": "about to be signalled",
            "signalled": "signalled, saving its checkpoint",
            "requeued": "requeued",
        }
        waited = span(answer["now_s"] - action["changed_s"])
        yield f"  Now: {done.get(action['state'], action['state'])} since {waited}."
    if job["state"] != "pending" or job["end_s"] is not None or not job["reason"]:
        return
    words = words_for(job["reason"])
    yield ""
    yield "Why it waits"
    yield f"  {job['reason']}: {job['message'] or (words.meaning if words else 'a reason of Slurm')}"
    if words is not None and job["message"]:
        yield f"  That is: {words.meaning}."
    yield ""
    yield "What must happen"
    if words is not None:
        yield f"  {words.remedy.replace('QUEUE', job['queue']).replace('JOB', job['job_id'])}"
    outlook = answer.get("outlook") or {}
    if outlook.get("ahead_jobs"):
        jobs = outlook["ahead_jobs"]
        yield (
            f"  {counted(jobs, 'job')} of its queue, asking for {counted(outlook['ahead_gpus'], 'GPU')},"
            f" {'are' if jobs > 1 else 'is'} asked before it."
        )
    leaving = answer["leaving_for_it"]
    for action in leaving:
        whose = f"job {action['job']}"
        gpus = f" ({counted(action['gpus'], 'GPU')})" if action.get("gpus") else ""
        where = f" of queue {action['from_queue']}" if action.get("from_queue") else ""
        waited = span(answer["now_s"] - action["since_s"])
        yield f"  {whose}{where}{gpus} is leaving for it: {action['state']} {waited} ago."
    if words is None and not leaving:
        yield "  'scontrol show job' and 'squeue --start' show Slurm's side."


def _when(answer: Answer) -> Iterator[str]:
    """The estimate and what it stands on."""
    job, outlook, estimate = answer["job"], answer.get("outlook"), answer.get("estimate")
    if job["state"] != "pending" or job["end_s"] is not None or not outlook:
        return
    yield ""
    yield "When it starts"
    now = answer["now_s"]
    for end in outlook["next_ends"]:
        when = f"{clock(end['at_s'])} (in {span(max(0, end['at_s'] - now))})"
        yield f"  job {end['job']} of queue {end['queue']} ({counted(end['gpus'], 'GPU')}) ends by {when}."
    yield f"  {estimate_text(estimate, now, hopeless=outlook['hopeless'])}"


def estimate_text(estimate: Answer | None, now: float, *, hopeless: bool) -> str:
    """When it starts, and how sure that is."""
    if hopeless:
        return "Not as it is: see above."
    if estimate is None:
        return "Nobody can say: nothing that is known now would start it."
    if estimate["how"] == "blocked":
        return f"Nobody can say: not before this has changed: {estimate['blocked']}."
    if estimate["start_s"] is None:
        seen = estimate["seen_s"]
        if estimate["never"]:
            return f"Nobody can say: {_never(estimate)}."
        return f"Not before {clock(seen)} (in {span(seen - now)}) if running jobs use their whole time limit."
    left = max(0, estimate["start_s"] - now)
    if estimate["how"] == "now":
        return "Now: it has been released, and Slurm starts it."
    if estimate["how"] == "grace":
        return f"Within {span(left)}: as soon as the jobs that leave for it have saved."
    when = (
        f"By {clock(estimate['start_s'])} (in {span(left)}) at the latest, if running jobs use their whole time limit"
    )
    if estimate["how"] == "simulated":
        return f"{when} and nobody else comes."
    return f"{when} and what comes free goes to it."


def _never(estimate: Answer) -> str:
    jobs, sliced = estimate.get("unlimited_jobs") or 0, estimate.get("sliced_gpus") or 0
    parts = [
        f"{counted(jobs, 'job')} without a time limit (--time) {'is' if jobs == 1 else 'are'} in its way"
        if jobs
        else "",
        f"{counted(sliced, 'GPU')} in slices {'comes' if sliced == 1 else 'come'} free when their jobs end"
        if sliced
        else "",
    ]
    return " and ".join(filter(None, parts)) or "nothing that is known now makes room for it"


def _losses(answer: Answer) -> Iterator[str]:
    if not answer["preemptions"]:
        return
    lost = sum(item["lost_gpu_s"] for item in answer["preemptions"])
    count = len(answer["preemptions"])
    yield ""
    yield f"Preempted {count} time{'s' if count > 1 else ''}, {span(lost)} of GPU time lost"
    for item in sorted(answer["preemptions"], key=lambda item: item["ended_s"]):
        words = words_for(item["reason"])
        saved = (
            "checkpoint confirmed" if item["confirmed_s"] is not None else "no checkpoint confirmed within its grace"
        )
        if item["signalled_s"] is not None:
            saved += f", signalled {span(item['ended_s'] - item['signalled_s'])} before"
        gainer = f" to {item['to_queue']} for job {item['beneficiary']}" if item["beneficiary"] else ""
        gpus = counted(item["gpus"], "GPU") if item["gpus"] else "slices"
        yield f"  {clock(item['ended_s'])}  {gpus} from {item['from_queue']}{gainer}"
        yield f"      {item['reason']}: {words.meaning if words else 'see the policy'}"
        yield f"      lost {span(item['lost_gpu_s'])} of GPU time; {saved}"


def _saved(answer: Answer) -> Iterator[str]:
    checkpoint, job = answer["checkpoint"], answer["job"]
    yield ""
    yield "Last checkpoint"
    if checkpoint is None:
        ready = (
            f"--ckpt={job['ckpt']}: it is told to save one before it must leave"
            if job["ckpt"]
            else "submitted without --ckpt"
        )
        yield f"  none confirmed ({ready})"
        return
    step = "" if checkpoint["step"] is None else f"step {checkpoint['step']}, "
    amount = "" if checkpoint["size_bytes"] is None else f", {size(checkpoint['size_bytes'])}"
    ago = span(max(0, answer["now_s"] - checkpoint["saved_s"]))
    yield f"  {step}saved {clock(checkpoint['saved_s'])} ({ago} ago) in {checkpoint['path']}{amount}"


def _reasons(answer: Answer) -> Iterator[str]:
    """Every reason it waited for, with how long."""
    if not answer.get("reasons"):
        return
    yield ""
    yield "Waited for"
    for reason in answer["reasons"]:
        until = answer["now_s"] if reason["until_s"] is None else reason["until_s"]
        still = ", and still" if reason["until_s"] is None else ""
        yield f"  {clock(reason['since_s'])}  {reason['code']:<18} {span(max(0, until - reason['since_s']))}{still}"


def _timeline(answer: Answer) -> Iterator[str]:
    if not answer["timeline"]:
        return
    yield ""
    yield "Timeline"
    for event in answer["timeline"]:
        source = event["source"].removeprefix("agent:")
        where = f"on {source}" if source != event["source"] else ""
        link = "its time limit is near" if event["detail"].get("chain") and event["kind"].startswith("evict") else ""
        said = ", ".join(filter(None, (where, link, event["message"])))
        yield f"  {clock(event['at_s'])}  {event['kind']:<18} {said}".rstrip()


def as_card(answer: Answer) -> list[str]:
    """Lines of `slurmext job show`."""
    job = answer["job"]
    rows = [
        ("Queue", job["queue"] or "-"),
        ("Account", job["account"]),
        ("Reason", f"{job['reason']}: {job['message']}" if job["reason"] else ""),
        ("Preempted", f"{job['preempted']} times" if job["preempted"] else ""),
        ("GPU use", _use(answer)),
        ("Idle", _idling(answer)),
        ("Checkpoint", next((line.strip() for line in _saved(answer) if line.startswith("  ")), "")),
    ]
    lines = [*head(answer), *(f"  {title + ':':<12} {text}" for title, text in rows if text), *_notices(answer)]
    return [_clean(line) for line in lines]


def _use(answer: Answer) -> str:
    use = answer.get("gpu_use")
    if not use:
        return ""
    running = answer["job"]["state"] == "running" and answer["job"]["end_s"] is None
    unknown = [node for node, state in use["nodes"].items() if state == "unknown"] if running else []
    if unknown or use["mean_percent"] is None:
        return f"unknown: the driver of {', '.join(unknown) or 'its nodes'} cannot be read"
    peak = use["peak_memory_mib"]
    memory = "" if peak is None else f", at most {size(peak << 20)} of memory on one GPU"
    return f"{use['mean_percent']:g} % on average{memory}"


def _idling(answer: Answer) -> str:
    use, rule = answer.get("gpu_use"), answer.get("idle_rule")
    since_s = use["idle_since_s"] if use else None
    if since_s is None:
        return ""
    allowed = f"; its queue allows {span(rule['after_s'])}" if rule else "; its queue does not mind"
    return f"all its GPUs since {clock(since_s)} ({span(max(0, answer['now_s'] - since_s))}){allowed}"


def _notices(answer: Answer) -> Iterator[str]:
    """What the job's owner is told."""
    job_id, now_s = answer["job"]["job_id"], answer["now_s"]
    for notice in answer.get("notices", ()):
        yield ""
        does = "may have to leave" if notice["reason"] == "PRE_DRAIN" else "must leave"
        yield f"It {does} at {clock(notice['at_s'])} (in {span(max(0, notice['at_s'] - now_s))})"
        yield f"  {notice['reason']}: {notice['message']}."
        if notice["reason"] == "IDLE_GPUS":
            yield f"  'slurmext job extend {job_id} --for 1h' keeps it."
    extension = answer.get("extension")
    if extension:
        yield ""
        yield f"Kept until {clock(extension['keep_until_s'])} by {extension['asked_by']} although its GPUs are idle."


_PARTS = (head, _left_to_slurm, slices, slices_had, _notices, _why, _when, _losses, _saved, _reasons, _timeline)
