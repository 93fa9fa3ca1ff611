-- What happened to each job, from every table that knows of it. Order by at_s.
-- what: submitted, started, ended, checkpoint, an action's step (`evict.signalled`) or an event.
-- who: The user, the daemon, or the agent or node it came from.
-- job_id: The job.
-- message: In words: the queue, the nodes, the reason, the checkpoint's path.
-- from: events, jobs
SELECT cluster, job_id, submit_s * 1.0 AS at_s, 'submitted' AS what, user_name AS who, queue AS message FROM jobs
UNION ALL
SELECT cluster, job_id, start_s, 'started', user_name, nodes FROM jobs WHERE start_s IS NOT NULL
UNION ALL
SELECT cluster, job_id, end_s, 'ended', user_name, state FROM jobs WHERE end_s IS NOT NULL
UNION ALL
SELECT cluster, job_id, created_s, CASE kind WHEN 'release' THEN 'release.intent' WHEN 'hold' THEN 'hold.intent' WHEN 'evict' THEN 'evict.intent' ELSE kind END, 'daemon', message FROM actions
UNION ALL
SELECT cluster, job_id, at_s, kind, source, message FROM events WHERE job_id IS NOT NULL
UNION ALL
SELECT cluster, job_id, saved_s, 'checkpoint', node, path FROM checkpoints
