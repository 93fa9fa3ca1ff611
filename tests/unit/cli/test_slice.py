"""`slurmext slice` over a store, without a daemon."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from slurmext.cli.main import cli
from slurmext.cli.render import Output
from slurmext.cli.session import Session
from slurmext.cli.slice import ADVICE_COLUMNS
from slurmext.cli.slice_map import bar, broken, drawn, frames, summary
from slurmext.config.site import SiteConfig
from slurmext.model.slice_state import GpuHold, GpuRecord, HoldState, SliceRecord, SliceSample, SliceState
from slurmext.model.slicing import GpuUse
from slurmext.model.state import JobKey, JobRow
from slurmext.testing.memory_store import MemoryStore
from slurmext.testing.nvml.cards import card_of
from slurmext.testing.slicing import geometry_of

if TYPE_CHECKING:
    from pathlib import Path

MINE, OTHER = JobKey(job_id="12", submit_s=1), JobKey(job_id="13", submit_s=1)
SLICE = SliceRecord(
    reservation="a", job=MINE, user="root", queue="lab", node="n1", gpu="G0", profile="2g.20gb", start=2,
    memory_mib=20091, milli=286, uuid="MIG-12", created_s=900, changed_s=900,
)  # fmt: skip
CUT = geometry_of(card_of("h100"))


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    lease = made.acquire_lease("controller", "me", 15, 1000)
    assert lease is not None
    assert CUT is not None
    rows = [
        {"name": p.name, "id": p.profile_id, "size": p.memory_units, "compute": p.compute_slices, "sm": p.sm,
         "memory_mib": p.memory_mib, "starts": list(p.starts), "max": p.most}
        for p in CUT.profiles
    ]  # fmt: skip
    busy = [
        {"profile": "2g.20gb", "start": 2, "uuid": "MIG-12", "state": "busy", "job_id": 12},
        {"profile": "1g.10gb", "start": 6, "uuid": "MIG-w", "state": "warm", "job_id": None},
    ]
    detail = {"geometry": rows, "instances": busy, "shares": []}
    card = GpuRecord(node="n1", uuid="G0", memory_mib=81559, sm=132, mig_capable=True, use=GpuUse.MIG, detail=detail)
    shared = replace(card, uuid="G1", minor=1, use=GpuUse.SHARED, detail={"geometry": rows})
    whole = replace(card, uuid="G2", minor=2, use=GpuUse.WHOLE, detail={"geometry": rows})
    made.record_gpus("n1", [card, shared, whole], 990)
    for uuid, use in (("G0", GpuUse.MIG), ("G1", GpuUse.SHARED)):
        hold = made.add_hold(lease.token, GpuHold(node="n1", use=use))
        made.change_hold(lease.token, replace(hold, state=HoldState.HELD, gpu=uuid, job_id=f"9{uuid[1]}"))
    share = replace(SLICE, job=OTHER, user="bob", gpu="G1", profile=None, start=None, share_pct=25, memory_mib=10240,
                    milli=250, uuid="")  # fmt: skip
    one, two = made.add_slices(lease.token, [SLICE, share])
    made.advance_slices([one.id, two.id], SliceState.LIVE, 950)
    made.save_jobs(lease.token, [JobRow(job=MINE, user="root", queue="lab", state="running", start_s=950)])
    made.record_slice_sample(
        SliceSample(job=MINE, node="n1", at_s=990, memory_mib=20091, memory_peak_mib=5000, sm_mean_pct=20, samples=9)
    )
    return made


@pytest.fixture
def run(store: MemoryStore, tmp_path: Path) -> Any:
    site = SiteConfig.model_validate({"version": 1, "cluster": "dev", "run_dir": str(tmp_path)})

    def call(*words: str, uid: int = 0) -> Any:
        session = Session(site=site, store=store, now=lambda: 1000.0, uid=uid)
        return CliRunner().invoke(cli, ["slice", *words], obj=session)

    return call


def test_the_map_draws_units_to_scale(run: Any) -> None:
    """Busy with its job, warm, free, shared by percent; whole GPUs only when asked for."""
    lines = run("map").output.splitlines()
    assert "·       ·       [12 2g.20gb    ]·       ·       [warm  ]·" in lines[1]
    assert "[13 25% 10G    ]" in lines[2]
    assert "2 GPUs in sliced use" in lines[-1]
    assert "whole" in run("map", "--all").output


def test_a_map_that_is_drawn_anew_ends_well_with_ctrl_c(store: MemoryStore, tmp_path: Path) -> None:
    """It is how it is meant to end: 0 and no word of it."""

    class Watched(Session):
        """Whose user has seen enough when he has seen two."""

        left = 2

        def ask(self, op: str, **fields: Any) -> dict[str, Any]:
            if not Watched.left:
                raise KeyboardInterrupt
            Watched.left -= 1
            return super().ask(op, **fields)

    site = SiteConfig.model_validate({"version": 1, "cluster": "dev", "run_dir": str(tmp_path)})
    session = Watched(site=site, store=store, now=lambda: 1000.0, uid=0)
    done = CliRunner().invoke(cli, ["slice", "map", "--every", "0.2"], obj=session)
    assert done.exit_code == 0 and "Aborted" not in done.output
    assert done.output.count("Memory units") == 2


def test_a_map_that_is_drawn_anew_is_written_out_at_once_where_there_is_no_terminal(run: Any) -> None:
    """A pipe or file has each picture as soon as it is drawn, below the one before; `seldom_s` apart at least."""
    found = json.loads(run("map", "--json").output)
    for seldom_s, pictures in ((0.0, [1, 2, 3]), (600.0, [1, 1, 1])):
        screen, seen = Console(width=100, file=io.StringIO()), list[int]()
        with frames(screen, seldom_s=seldom_s) as show:
            for _ in pictures:
                show(found)
                seen.append(screen.file.getvalue().count("Memory units"))
        assert seen == pictures


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_number_is_shown_whole_or_not_at_all(percent: int) -> None:
    """`1025` would be read as what it says."""
    share = {"kind": "share", "percent": percent, "job": "1234567", "state": "busy", "memory_mib": 10250}
    line = bar({"use": "shared", "parts": [share], "free_gpus": 1 - percent / 100}).plain
    assert len(line) == 64
    assert set(re.findall(r"\d+", line)) <= {"1234567", str(percent), "10250"}
    assert (percent < 32) or f"[1234567 {percent}% 10250M" in line


@pytest.mark.parametrize(("free_gpus", "drawn_so"), [(0.75, "·" * 48), (0.25, "·" * 16 + "-" * 32), (0, "-" * 48)])
def test_what_nobody_can_have_any_more_is_not_drawn_as_free(free_gpus: float, drawn_so: str) -> None:
    """Of a shared GPU the percent for which no memory is left, of a cut one units for which no compute slice is."""
    share = {"kind": "share", "percent": 25, "job": "2", "state": "busy", "memory_mib": 10240}
    line = bar({"use": "shared", "parts": [share], "free_gpus": free_gpus}).plain
    assert line[:16] == "[2 25% 10G     ]"
    assert line[16:].replace(" no memory left ", "-" * 16) == drawn_so
    assert ("no memory left" in line) == (free_gpus < 0.75)
    cut = {"use": "mig", "memory_units": 8, "parts": []}
    assert bar({**cut, "fits": {"1g.10gb": 1}}, 8).plain == "·" * 8
    assert bar({**cut, "fits": {}}, 8).plain == "-" * 8


@pytest.mark.parametrize("columns", range(25, 130, 5))
def test_what_there_is_room_for_is_broken_between_things(run: Any, columns: int) -> None:
    """`6` at the end of a line and `x 1g.10gb` on the next would be read twice."""
    screen, found = Console(width=columns, file=io.StringIO()), json.loads(run("map", "--json").output)
    screen.print(Text(broken(summary(found), columns)))
    lines = screen.file.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    for words in ("2 GPUs in sliced use,", "1 whole;", "room for 5 x 1g.10gb,", "3 x 1g.20gb", "fragmentation 17.4 %"):
        assert any(words in line for line in lines)
    assert not any(line.startswith(("x ", "%")) for line in lines)


def test_of_nothing_free_no_fragments_are_told(run: Any) -> None:
    """There is nothing that does not fit together; of a shared GPU any percent fits."""
    found = json.loads(run("map", "--json").output)
    cards = [card | {"free_gpus": 0.0} if card["use"] == "mig" else card for card in found["gpus"]]
    full = {**found, "gpus": cards, "fragmentation": {**found["fragmentation"], "percent": 100.0}}
    for answer, told in ((found, True), (full, False)):
        screen = Console(width=200, file=io.StringIO())
        screen.print(drawn(answer, columns=200))
        assert ("fragmentation" in screen.file.getvalue()) is told


@pytest.mark.parametrize("columns", [60, 80, 97, 200])
def test_the_map_fits_the_terminal(run: Any, columns: int) -> None:
    """The picture is drawn narrower, and node, GPU, type, use and what is free stay whole."""
    screen, found = Console(width=columns, file=io.StringIO()), json.loads(run("map", "--json").output)
    screen.print(drawn(found, show_all=True, columns=columns))
    head, *lines = screen.file.getvalue().splitlines()
    cards = [[card["node"], str(card["minor"]), card["gpu_type"], card["use"]] for card in found["gpus"]]
    assert max(map(len, (head, *lines))) <= columns
    assert head.split()[:4] == ["Node", "GPU", "Type", "Use"] and head.endswith("Free")
    assert [line.split()[:4] for line in lines[: len(cards)]] == cards
    assert [line.split()[-1] for line in lines[:2]] == [f"{card['free_gpus']:.2f}" for card in found["gpus"][:2]]


def test_others_are_only_taken_to_ordinary_users(run: Any) -> None:
    """Neither job, nor user, nor UUID of anybody else."""
    found = json.loads(run("map", "--json", uid=65534).output)
    parts = [part for card in found["gpus"] for part in card["parts"]]
    assert {part["state"] for part in parts} == {"taken", "warm"}
    assert all(part["job"] is None and part["user"] is None and not part.get("uuid") for part in parts)
    assert all(part.get("memory_mib") is None for part in parts)
    assert "[taken 25%     ]" in run("map", uid=65534).output
    assert json.loads(run("list", "--json", uid=65534).output) == []
    for command in ("list", "history", "advise"):
        refused = run(command, "--user", "bob", uid=65534)
        assert refused.exit_code == 2
        assert "only root and SlurmUser see what is bob's; without --user you see your own" in refused.stderr


def test_slices_profiles_history_and_advice_are_listed(run: Any) -> None:
    """For people and for scripts."""
    assert run("list", "-nP", "-o", "JobID,Slice,GPU,GPUs,State").output.splitlines() == [
        "12|2g.20gb|0|0.29|live",
        "13|25%|1|0.25|live",
    ]
    assert max(map(len, run("history").output.splitlines())) <= 100
    profiles = json.loads(run("list", "--profiles", "--json").output)
    assert {row["profile"]: row["fits_now"] for row in profiles}["1g.10gb"] == 5
    assert "12|2g.20gb" in run("history", "--job", "12", "-nP", "-o", "JobID,Slice").output
    advice = run("advise", "12", "-nP", "-o", "JobID,Had,AskFor").output
    assert advice == "12|2g.20gb|--gpu-slice=1g.10gb\n"
    assert "nothing was measured" in run("advise", "12", uid=65534).output or run("advise", "12", uid=65534).exit_code


def test_advice_fits_a_hundred_columns_and_nothing_is_cut(capsys: Any) -> None:
    """Sentences are broken between words; for scripts they are whole."""
    sentence = "its GPU memory was used up, and there is no larger profile: ask for a whole GPU"
    row = {"job_id": "1234567_12", "had": "100%,mem=10240M", "memory_mib": 183359, "memory_peak_mib": 183359,
           "sm_mean_pct": 100.0, "options": "--gpu-share=50%,mem=40960M", "why": sentence}  # fmt: skip
    rows = [row, row | {"job_id": "41", "had": "3g.40gb", "options": "--gpu-slice=1g.10gb"}]
    for shown in (rows, rows[1:]):
        Output().rows(ADVICE_COLUMNS, shown)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 100
        for each in shown:
            assert any(all(each[key] in line for key in ("job_id", "had", "options")) for line in lines)
        start = lines[0].index("Because")
        assert " ".join(" ".join(line[start:].split()) for line in lines[2:]).split() == (sentence.split() * len(shown))
    Output(parsable=True).rows(ADVICE_COLUMNS, rows)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "JobID|Had|Memory|PeakMemory|SMMean|AskFor|Because"
    assert [line.endswith(sentence) and "|183359M|183359M|100%|" in line for line in lines] == [True, True]
    Output(fields="JobID,SMMean").rows(ADVICE_COLUMNS, rows)
    assert capsys.readouterr().out.split()[:2] == ["JobID", "SMMean"]
