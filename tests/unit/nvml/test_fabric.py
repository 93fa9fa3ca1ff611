"""The NVLink domain that a node's GPUs are in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slurmext.adapters.nvml.fabric import fabric_domain
from slurmext.testing.nvml import ENVIRONMENT, SimulatedGpus
from slurmext.testing.nvml.fabric import join_fabric

NewNode = Callable[..., SimulatedGpus]
UUID = "0123456789abcdef0123456789abcdef"


def test_nodes_of_one_fabric_and_clique_are_one_domain(new_node: NewNode) -> None:
    """The clique tells apart what one fabric is divided into."""
    gpus = new_node("h100", "h100")
    assert fabric_domain() == ""
    join_fabric(gpus.path, UUID, 7)
    assert fabric_domain() == f"{UUID}.7"


def test_nvlink_inside_the_machine_is_no_domain(new_node: NewNode) -> None:
    """Its fabric has no UUID."""
    join_fabric(new_node("h100").path, "0" * 32)
    assert fabric_domain() == ""


def test_a_driver_that_does_not_answer_is_no_domain(
    new_node: NewNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that gives an error, nor a machine without GPUs."""
    gpus = new_node("h100")
    gpus.path.with_name(f"{gpus.path.name}.fabric").write_text("no\n")
    assert fabric_domain() == ""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "none"))
    assert fabric_domain() == ""
