-- GPUs held and asked for now by the jobs of each queue itself, next to what the policy in force grants it.
-- running_gpus: GPUs of running, completing and suspended jobs.
-- pending_gpus: GPUs that pending jobs ask for.
-- running_jobs: Running, completing and suspended jobs.
-- pending_jobs: Pending jobs.
-- borrowed_gpus: Running GPUs beyond the guarantee.
-- from: queues, jobs
SELECT
    used.cluster,
    used.queue,
    queues.guaranteed_gpus,
    queues.max_gpus,
    used.running_gpus,
    used.pending_gpus,
    used.running_jobs,
    used.pending_jobs,
    CASE WHEN used.running_gpus > queues.guaranteed_gpus THEN used.running_gpus - queues.guaranteed_gpus ELSE 0 END
        AS borrowed_gpus
FROM (
    SELECT
        cluster,
        queue,
        SUM(CASE WHEN state IN ('running', 'completing', 'suspended') THEN gpus ELSE 0 END) AS running_gpus,
        SUM(CASE WHEN state = 'pending' THEN gpus ELSE 0 END) AS pending_gpus,
        SUM(CASE WHEN state IN ('running', 'completing', 'suspended') THEN 1 ELSE 0 END) AS running_jobs,
        SUM(CASE WHEN state = 'pending' THEN 1 ELSE 0 END) AS pending_jobs
    FROM jobs
    WHERE end_s IS NULL
    GROUP BY cluster, queue
    UNION ALL
    SELECT cluster, path, 0, 0, 0, 0
    FROM queues
    WHERE NOT EXISTS (
        SELECT 1 FROM jobs WHERE jobs.cluster = queues.cluster AND jobs.queue = queues.path AND jobs.end_s IS NULL
    )
) used
LEFT JOIN queues ON queues.cluster = used.cluster AND queues.path = used.queue
