"""Models that a job finds on its nodes."""

from __future__ import annotations

from slurmext.options.row import Argument, Kind, Option

PRELOAD = Option(
    name="preload",
    env="SLURMEXT_PRELOAD",
    key="preload",
    kind=Kind.MODELS,
    argument=Argument.REQUIRED,
    metavar="org/model[@revision][,...]",
    low=1,
    high=16,
    rule="models as NAME or NAME@REVISION, a name being one to three parts joined by '/' (each of letters, digits, "
    "'.', '_' and single '-', a letter or digit first, 96 at most), at most 16 different ones joined by commas",
    example="org/model@main",
    summary="have these models in every node's memory before the job starts, e.g. org/model@main",
    detail=(
        "The models are brought to the job's nodes while it waits, each read from shared storage once and passed on "
        'from node to node. `slurmext.staging.load("org/model")` maps them; `SLURMEXT_STAGED` has the directories. '
        "Without a revision the newest is meant. The job starts without them when they do not come in time, and "
        "`load` then reads from where they are stored. `slurmext model list` shows what there is."
    ),
    exported=True,
    good=("org/model", "org/model@main", "model", "a/b/c@v1.0", "org/model@main,org/other", "o_1/m-2.x@r-_.3"),
    bad=(
        "",
        "/model",
        "org/",
        "org//model",
        "org/model@",
        "@main",
        "org/model@a@b",
        "org/model,",
        ",org/model",
        "org/model,org/model",
        "org/mo--del",
        "org/model ",
        "org/../model",
        "-org/model",
        "org/.model",
        "org/model@-x",
        "a/b/c/d",
        "org/model@a/b",
        "org/" + "m" * 97,
        "org/model@" + "r" * 65,
        "org/módel",
        ",".join(f"m{number}" for number in range(17)),
    ),
)
