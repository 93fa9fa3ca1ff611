-- Every eviction with how long its parts took and what it cost.
-- victim_name: The victim's job name; null once the job was pruned.
-- lost_gpu_hours: Work since the last checkpoint, in GPU hours.
-- checkpoint_took_s: From the signal to the confirmed checkpoint.
-- eviction_took_s: From the signal to the requeue.
-- from: preemptions, jobs
SELECT
    preemptions.cluster,
    preemptions.id,
    preemptions.victim_job_id,
    preemptions.victim_submit_s,
    jobs.name AS victim_name,
    preemptions.victim_user,
    preemptions.from_queue,
    preemptions.beneficiary,
    preemptions.to_queue,
    preemptions.reason,
    preemptions.gpus,
    preemptions.lost_gpu_s / 3600 AS lost_gpu_hours,
    preemptions.signalled_s,
    preemptions.confirmed_s,
    preemptions.ended_s,
    preemptions.confirmed_s - preemptions.signalled_s AS checkpoint_took_s,
    preemptions.ended_s - preemptions.signalled_s AS eviction_took_s
FROM preemptions
LEFT JOIN jobs
    ON jobs.cluster = preemptions.cluster
    AND jobs.job_id = preemptions.victim_job_id
    AND jobs.submit_s = preemptions.victim_submit_s
