"""Thousands of jobs that wait for models: what they share is looked up once a cycle."""

from __future__ import annotations

import pytest

from slurmext.model.cluster import Annotation, ClusterView, JobRecord
from slurmext.model.job import JobState
from slurmext.service.staging import jobs

from .test_desk import BOB, NODES, NOTHING, Stage, progress


def test_jobs_that_want_the_same_model_share_what_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is every node looked at for each of them, nor the user database asked."""
    stage, asked, looked = Stage(), list[int](), list[int]()
    entry = stage.model(public=True)
    stage.says("n3", progress(entry, 1))
    records = tuple(
        JobRecord(slurm_id=str(number), raw_id=str(number), uid=BOB + number % 2, state=JobState.PENDING,
                  annotation=Annotation(queue="q", preload=("org/net",)))
        for number in range(1, 401)
    )  # fmt: skip
    caller_of, every = jobs.caller_of, stage.desk._hosts.all
    monkeypatch.setattr(jobs, "caller_of", lambda uid: (asked.append(uid), caller_of(uid))[1])
    monkeypatch.setattr(stage.desk._hosts, "all", lambda: (looked.append(1), every())[1])
    view = ClusterView(read_s=stage.clock.s, jobs=records, nodes=())
    needs = stage.desk.needs(view)
    assert len(needs) == 400
    assert {need.warm for need in needs.values()} == {("n3",)}
    stage.desk.run(NOTHING, view)
    assert sorted(asked) == [BOB, BOB + 1]
    assert len(looked) < 20


def test_a_mistyped_name_is_looked_for_once_for_all_jobs_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been registered a moment ago; once it is, they have it."""
    stage, read = Stage(), list[int]()
    records = tuple(
        JobRecord(slurm_id=str(number), raw_id=str(number), uid=BOB, state=JobState.PENDING,
                  annotation=Annotation(queue="q", preload=("org/later",)))
        for number in range(1, 401)
    )  # fmt: skip
    models = stage.store.models.models
    monkeypatch.setattr(stage.store.models, "models", lambda: (read.append(1), models())[1])
    view = ClusterView(read_s=stage.clock.s, jobs=records, nodes=())
    (why,) = {need.why for need in stage.desk.needs(view).values()}
    assert "there is no model 'org/later'" in why
    assert len(read) <= 2
    stage.model("org/later", public=True)
    stage.desk.changed()
    assert {need.why for need in stage.desk.needs(view).values()} == {""}


def test_nodes_are_told_of_the_models_there_are_once_and_when_they_change() -> None:
    """One whose agent is another one is told again, also that there are none any more."""
    stage, told = Stage(), list[tuple[str, ...]]()
    stage.agents.catalogue = lambda nodes, models: told.append((*sorted(nodes), *(str(each.key) for each in models)))
    entry = stage.model(public=True)
    view = ClusterView(read_s=stage.clock.s, jobs=(), nodes=())

    def cycle() -> list[tuple[str, ...]]:
        told.clear()
        stage.clock.s += 10
        stage.desk.run(NOTHING, view)
        return told.copy()

    assert cycle() == [(*NODES, "org/net@v1")]
    assert cycle() == []
    stage.desk.greeted("n2", {"port": 6832})
    assert cycle() == [("n2", "org/net@v1")]
    stage.store.models.remove(entry.key)
    assert cycle() == [NODES]
    stage.desk.greeted("n2", {"port": 6832})
    assert cycle() == [("n2",)]
