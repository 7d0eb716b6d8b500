-- The one way in which backups begin: one per machine of $1, with its steps. $2: ids of jobs; $3 to $5: ids of their steps. A machine that
-- was removed, is quarantined or has no agent gets none; one that is offline or busy does, and is waited for.
--
-- For slot $9 of a policy it is expired at once if an earlier one of the policy is not over. One that somebody asked for takes the slot's
-- place only if it has all the disks that the policy wants ($12). What is there already stays. The deadline counts from the slot; a slot
-- that was missed by downtime still gets $10 to start in. Without a slot it waits for whatever is before it.
WITH wanted AS (
    SELECT w.* FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[])
        AS w (machine_id, job_id, take_id, transfer_id, release_id)
    -- Locked until the job is there: whoever removes the machine waits for that.
    JOIN machines m ON m.id = w.machine_id AND m.removed_at IS NULL AND m.quarantine IS NULL
    WHERE EXISTS (SELECT 1 FROM agents a WHERE a.machine_id = w.machine_id)
    FOR KEY SHARE OF m
),
judged AS (
    SELECT wanted.*,
           $9::timestamptz IS NOT NULL
           -- Two, so that each finds its partial index: one over both states reads all jobs that the machine ever had.
           AND (EXISTS (SELECT 1 FROM jobs j WHERE j.machine_id = wanted.machine_id AND j.policy_id = $6
                          AND j.state = 'queued'
                          AND (j.slot IS NOT NULL OR j.disk_names = '{}' OR ($12::text[] <> '{}' AND j.disk_names @> $12::text[])))
                OR EXISTS (SELECT 1 FROM jobs j WHERE j.machine_id = wanted.machine_id AND j.policy_id = $6
                             AND j.state = 'running' AND j.kind = 'backup'
                             AND (j.slot IS NOT NULL OR j.disk_names = '{}' OR ($12::text[] <> '{}' AND j.disk_names @> $12::text[])))
           ) AS overlapped
    FROM wanted
),
made AS (
    INSERT INTO jobs (id, kind, state, machine_id, disk_names, requested_by, expires_at, ended_at, error,
                      policy_id, policy_name, policy_revision, slot, deadline, minimum_consistency)
    SELECT job_id, 'backup', CASE WHEN overlapped THEN 'expired' ELSE 'queued' END, machine_id, $12::text[], $14,
           now() + $10::interval, CASE WHEN overlapped THEN now() END, CASE WHEN overlapped THEN $13::jsonb END,
           $6, $7, $8, $9, coalesce($9::timestamptz, now()) + $10::interval, $11
    FROM judged
    ON CONFLICT (policy_id, machine_id, slot) DO NOTHING
    RETURNING id, state
),
steps AS (
    INSERT INTO steps (id, job_id, kind, state, ready_at, ended_at)
    SELECT step.id, made.id, step.kind, CASE WHEN made.state = 'expired' THEN 'skipped' ELSE 'pending' END,
           CASE WHEN made.state = 'queued' AND step.kind = 'take_snapshot' THEN now() END,
           CASE WHEN made.state = 'expired' THEN now() END
    FROM made JOIN judged ON judged.job_id = made.id
    CROSS JOIN LATERAL (VALUES (judged.take_id, 'take_snapshot'), (judged.transfer_id, 'transfer_data'),
                               (judged.release_id, 'release_snapshot')) AS step (id, kind)
)
SELECT count(*) FILTER (WHERE state = 'queued'), count(*) FILTER (WHERE state = 'expired') FROM made
