"""GPUs of the nodes, slices of jobs, placeholder jobs of GPUs in sliced use, and what slices were used for.

Nothing ever wrote the first schema's `slices`: it makes way.

Revision: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from slurmext.adapters.sql.migrations.tables import create_index, create_table

revision = "0005"
down_revision = "0004"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
LONG_TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql")


def upgrade() -> None:
    op.drop_table("slices", if_exists=True)
    create_table(
        "gpus",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("minor", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("sm", sa.Integer, nullable=False),
        sa.Column("mig_capable", sa.Integer, nullable=False),
        sa.Column("gpu_use", sa.String(32), nullable=False),
        sa.Column("detail", LONG_TEXT, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "node", "uuid", name="pk_gpus"),
    )
    create_table(
        "slices",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("reservation", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("submit_s", sa.BigInteger, nullable=False),
        sa.Column("user_name", sa.String(255), nullable=False),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("gpu", sa.String(64), nullable=False),
        sa.Column("gpu_type", sa.String(64), nullable=False),
        sa.Column("profile", sa.String(64)),
        sa.Column("profile_id", sa.Integer),
        sa.Column("start", sa.Integer),
        sa.Column("share_pct", sa.Integer),
        sa.Column("memory_mib", sa.Integer),
        sa.Column("milli", sa.Integer, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("why", LONG_TEXT, nullable=False),
        sa.Column("made_ms", sa.Double),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("changed_s", sa.Double, nullable=False),
        sa.Column("live_s", sa.Double),
        sa.Column("ended_s", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_slices"),
    )
    create_index("ix_slices_cluster_state", "slices", ["cluster", "state"])
    create_index("ix_slices_cluster_job_id", "slices", ["cluster", "job_id"])
    create_index("ix_slices_cluster_ended_s", "slices", ["cluster", "ended_s"])
    create_table(
        "gpu_holds",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("gpu_type", sa.String(64), nullable=False),
        sa.Column("gpu_use", sa.String(32), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("gpu", sa.String(64), nullable=False),
        sa.Column("for_job", sa.String(64), nullable=False),
        sa.Column("why", LONG_TEXT, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("changed_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gpu_holds"),
    )
    create_index("ix_gpu_holds_cluster_state", "gpu_holds", ["cluster", "state"])
    create_table(
        "slice_samples",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("submit_s", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("memory_mib", sa.Integer),
        sa.Column("memory_peak_mib", sa.Integer),
        sa.Column("sm_mean_pct", sa.Double),
        sa.Column("sm_peak_pct", sa.Double),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("oom", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "job_id", "submit_s", "node", name="pk_slice_samples"),
    )


def downgrade() -> None:
    for table in ("slice_samples", "gpu_holds", "slices", "gpus"):
        op.drop_table(table, if_exists=True)
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
