"""The first schema: leases, policy, jobs, plans and actions, ledger, fences, checkpoints, events, slices, models.

Revision: 0001
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from slurmext.adapters.sql.migrations.tables import create_index, create_table

revision = "0001"
down_revision = None

VIEWS = ("queue_usage", "preemption_ledger", "job_timeline", "checkpoint_age")

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
LONG_TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql")


def upgrade() -> None:
    create_table(
        "checkpoints",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("step", sa.BigInteger),
        sa.Column("path", LONG_TEXT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("saved_s", sa.Double, nullable=False),
        sa.Column("confirmed_s", sa.Double, nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        sqlite_autoincrement=True,
    )
    create_index("ix_checkpoints_cluster_job_id_saved_s", "checkpoints", ["cluster", "job_id", "saved_s"])
    create_table(
        "events",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("message", LONG_TEXT, nullable=False),
        sa.Column("detail", LONG_TEXT, nullable=False),
        sa.Column("dedup", sa.String(255)),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("cluster", "dedup", name="uq_events_cluster_dedup"),
        sqlite_autoincrement=True,
    )
    create_index("ix_events_cluster_at_s", "events", ["cluster", "at_s"])
    create_index("ix_events_cluster_job_id_at_s", "events", ["cluster", "job_id", "at_s"])
    create_table(
        "jobs",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("submit_s", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("name", LONG_TEXT, nullable=False),
        sa.Column("user_name", sa.String(255), nullable=False),
        sa.Column("account", sa.String(255), nullable=False),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("state", sa.String(64), nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("nodes", LONG_TEXT, nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("message", LONG_TEXT, nullable=False),
        sa.Column("ckpt", sa.String(255)),
        sa.Column("preempted", sa.Integer, nullable=False),
        sa.Column("restarts", sa.Integer, nullable=False),
        sa.Column("start_s", sa.Double),
        sa.Column("end_s", sa.Double),
        sa.Column("requested_nodes", LONG_TEXT, nullable=False),
        sa.Column("updated_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "job_id", "submit_s", name="pk_jobs"),
    )
    create_index("ix_jobs_cluster_end_s", "jobs", ["cluster", "end_s"])
    create_index("ix_jobs_cluster_queue_state", "jobs", ["cluster", "queue", "state"])
    create_table(
        "leases",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "name", name="pk_leases"),
    )
    create_table(
        "models",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("revision", sa.String(255), nullable=False),
        sa.Column("source", LONG_TEXT, nullable=False),
        sa.Column("manifest", LONG_TEXT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("imported_by", sa.String(255), nullable=False),
        sa.Column("imported_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("name", "revision", name="uq_models_name_revision"),
    )
    create_table(
        "plans",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("summary", LONG_TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_plans"),
    )
    create_index("ix_plans_cluster_created_s", "plans", ["cluster", "created_s"])
    create_table(
        "policies",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("document", LONG_TEXT, nullable=False),
        sa.Column("applied_by", sa.String(255), nullable=False),
        sa.Column("applied_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "version", name="pk_policies"),
    )
    create_table(
        "preemptions",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("victim_job_id", sa.String(64), nullable=False),
        sa.Column("victim_submit_s", sa.BigInteger, nullable=False),
        sa.Column("victim_user", sa.String(255), nullable=False),
        sa.Column("beneficiary", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("from_queue", sa.String(255), nullable=False),
        sa.Column("to_queue", sa.String(255), nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("lost_gpu_s", sa.Double, nullable=False),
        sa.Column("signalled_s", sa.Double),
        sa.Column("confirmed_s", sa.Double),
        sa.Column("ended_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_preemptions"),
        sa.UniqueConstraint(
            "cluster",
            "victim_job_id",
            "victim_submit_s",
            "ended_s",
            name="uq_preemptions_cluster_victim_job_id_victim_submit_s_ended_s",
        ),
    )
    create_index("ix_preemptions_cluster_ended_s", "preemptions", ["cluster", "ended_s"])
    create_table(
        "queues",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("parent", sa.String(255), nullable=False),
        sa.Column("guaranteed_gpus", sa.Integer),
        sa.Column("reserved_gpus", sa.Integer, nullable=False),
        sa.Column("max_gpus", sa.Integer),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("policy_version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "path", name="pk_queues"),
    )
    create_table(
        "reservations",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("submit_s", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reservations"),
        sa.UniqueConstraint("cluster", "job_id", "submit_s", name="uq_reservations_cluster_job_id_submit_s"),
    )
    create_table(
        "slices",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("gpu_uuid", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("placement_start", sa.Integer),
        sa.Column("placement_size", sa.Integer),
        sa.Column("memory_mib", sa.Integer),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("submit_s", sa.BigInteger),
        sa.Column("device_uuid", sa.String(64)),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("changed_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_slices"),
    )
    create_index("ix_slices_cluster_job_id", "slices", ["cluster", "job_id"])
    create_index("ix_slices_cluster_node_gpu_uuid", "slices", ["cluster", "node", "gpu_uuid"])
    create_table(
        "actions",
        sa.Column("id", ID, nullable=False),
        sa.Column("plan_id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("submit_s", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("message", LONG_TEXT, nullable=False),
        sa.Column("detail", LONG_TEXT, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("changed_s", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name="fk_actions_plan_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_actions"),
    )
    create_index("ix_actions_cluster_job_id", "actions", ["cluster", "job_id"])
    create_index("ix_actions_cluster_kind_changed_s", "actions", ["cluster", "kind", "changed_s"])
    create_index("ix_actions_cluster_state", "actions", ["cluster", "state"])
    create_index("ix_actions_plan_id", "actions", ["plan_id"])
    create_table(
        "replicas",
        sa.Column("model_id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("path", LONG_TEXT, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("bytes_done", sa.BigInteger, nullable=False),
        sa.Column("pinned", sa.Integer, nullable=False),
        sa.Column("verified_s", sa.Double),
        sa.Column("changed_s", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_replicas_model_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "cluster", "node", "tier", name="pk_replicas"),
    )
    create_index("ix_replicas_cluster_node", "replicas", ["cluster", "node"])
    create_table(
        "reservation_gpus",
        sa.Column("reservation_id", ID, nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["reservation_id"], ["reservations.id"], name="fk_reservation_gpus_reservation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("reservation_id", "node", name="pk_reservation_gpus"),
    )
    views = Path(__file__).parents[1] / "views" / revision
    for view in VIEWS:
        op.execute(f"DROP VIEW IF EXISTS {view}")
        op.execute(f"CREATE VIEW {view} AS\n{(views / view).with_suffix('.sql').read_text()}")


def downgrade() -> None:
    for view in reversed(VIEWS):
        op.execute(f"DROP VIEW IF EXISTS {view}")
    for table in (
        "reservation_gpus",
        "replicas",
        "actions",
        "slices",
        "reservations",
        "queues",
        "preemptions",
        "policies",
        "plans",
        "models",
        "leases",
        "jobs",
        "events",
        "checkpoints",
    ):
        op.drop_table(table, if_exists=True)
