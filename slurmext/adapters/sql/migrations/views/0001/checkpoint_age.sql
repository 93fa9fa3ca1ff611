-- The newest confirmed checkpoint of each living job. Its age is the time now minus saved_s; null: it has none.
-- from: jobs, checkpoints
SELECT
    jobs.cluster,
    jobs.job_id,
    jobs.submit_s,
    jobs.user_name,
    jobs.queue,
    jobs.state,
    jobs.gpus,
    jobs.start_s,
    newest.saved_s,
    newest.confirmed_s,
    newest.step,
    newest.path,
    newest.size_bytes
FROM jobs
LEFT JOIN (
    SELECT
        cluster,
        job_id,
        saved_s,
        confirmed_s,
        step,
        path,
        size_bytes,
        ROW_NUMBER() OVER (PARTITION BY cluster, job_id ORDER BY saved_s DESC, id DESC) AS place
    FROM checkpoints
) newest
    ON newest.cluster = jobs.cluster AND newest.job_id = jobs.job_id AND newest.place = 1
    AND newest.saved_s >= jobs.submit_s
WHERE jobs.end_s IS NULL
