"""The controller under each Lua at hand, and one that knows what GPUs can be cut into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.job_submit.site import LUAS, Controller

NO_LUA = pytest.param("", marks=pytest.mark.skip(reason="no Lua interpreter: apt install lua5.4"))


@pytest.fixture(params=LUAS or [NO_LUA], ids=lambda path: Path(path).name)
def controller(request: pytest.FixtureRequest, tmp_path: Path) -> Controller:
    return Controller(tmp_path, request.param)


SLICES = (
    "card\th100\t81559\ncard\ta30\t24576\ncard\tl40\t46068\n"
    "nodes\t2\th100=8\nnodes\t1\ta30=2\nnodes\t1\tb200=2,b200x=2\nnodes\t1\tl40=4\n"
    "profile\t1g.10gb\th100\t9984\t1\t7\nprofile\t3g.40gb\th100\t40448\t3\t2\n"
    "profile\t1g.6gb\ta30\t5952\t1\t4\nprofile\t1g.23gb\tb200\t22528\t1\t7\n"
    "profile\t1g.23gb\tb200x\t20992\t1\t7\ncard\tb200\t183359\n"
)


@pytest.fixture
def sliced(controller: Controller):
    """`sbatch` of a job without GPUs, where slurmextd has told what the GPUs can be cut into."""
    (controller.folder / "slices.tsv").write_text(SLICES)
    return lambda options, **job: controller.submit(options=options, **{"tres_per_job": None, **job})
