-- Claims up to $2 steps for agents whose sessions controller $1 holds, for a lease of $3. Snapshots are taken at once; of the
-- transfers, at most $4 run through this controller's gateway, those with the nearest deadline first.
--
-- The machine's slot row is locked first and carries the busy marker, so that a row that changed meanwhile is read again
-- with its newest value. Everything below re-checks its own state in its WHERE: a step that somebody else claimed,
-- skipped or ended since the statement's snapshot updates no row.
WITH admitted AS MATERIALIZED (
    SELECT st.id
    FROM steps st
    JOIN jobs j ON j.id = st.job_id
    JOIN machine_slots m ON m.active_job = j.id
    JOIN agent_sessions s ON s.machine_id = m.machine_id
    JOIN machines ma ON ma.id = m.machine_id
    WHERE st.kind = 'transfer_data' AND st.state = 'pending' AND st.ready_at <= now()
      AND s.controller_id = $1 AND ma.quarantine IS NULL
    ORDER BY j.deadline, st.ready_at, st.id
    LIMIT greatest(0, $4 - (SELECT count(*) FROM steps
                            WHERE controller_id = $1 AND kind = 'transfer_data' AND state IN ('dispatched', 'running')))
),
slots AS MATERIALIZED (
    SELECT m.machine_id, m.active_job, s.agent_id
    FROM machine_slots m
    JOIN agent_sessions s ON s.machine_id = m.machine_id
    JOIN machines ma ON ma.id = m.machine_id
    WHERE s.controller_id = $1 AND ma.quarantine IS NULL
      AND CASE WHEN m.active_job IS NULL
          THEN EXISTS (SELECT 1 FROM jobs j
                       WHERE j.machine_id = m.machine_id AND j.state = 'queued' AND j.run_at <= now())
          ELSE EXISTS (SELECT 1 FROM steps st
                       WHERE st.job_id = m.active_job AND st.state = 'pending' AND st.ready_at <= now()
                         AND (st.kind <> 'transfer_data' OR st.id IN (SELECT id FROM admitted)))
          END
    ORDER BY m.last_claim_at
    LIMIT $2
    FOR UPDATE OF m SKIP LOCKED
),
picked AS MATERIALIZED (
    SELECT slots.machine_id, slots.agent_id, st.id AS step_id
    FROM slots
    CROSS JOIN LATERAL (
        SELECT coalesce(slots.active_job,
                        (SELECT j.id FROM jobs j
                         WHERE j.machine_id = slots.machine_id AND j.state = 'queued' AND j.run_at <= now()
                         ORDER BY j.run_at, j.id LIMIT 1)) AS job_id
    ) chosen
    CROSS JOIN LATERAL (
        SELECT id FROM steps
        WHERE steps.job_id = chosen.job_id AND steps.state = 'pending' AND steps.ready_at <= now()
          AND (steps.kind <> 'transfer_data' OR steps.id IN (SELECT id FROM admitted))
        ORDER BY ready_at LIMIT 1
    ) st
),
claimed AS (
    UPDATE steps
    SET state = 'dispatched', attempt = attempt + 1, tries = tries + 1, report_seq = 0, committing_seq = NULL, committing_base = NULL, controller_id = $1,
        lease_until = now() + $3, progressed_at = now(), started_at = coalesce(started_at, now()), ended_at = NULL, error = NULL
    FROM picked
    WHERE steps.id = picked.step_id AND steps.state = 'pending'
    RETURNING steps.id, steps.job_id, steps.kind, steps.attempt, picked.machine_id, picked.agent_id
),
started AS (
    UPDATE jobs SET state = 'running', started_at = now()
    FROM claimed WHERE jobs.id = claimed.job_id AND jobs.state = 'queued'
),
marked AS (
    UPDATE machine_slots SET active_job = claimed.job_id, last_claim_at = now()
    FROM claimed WHERE machine_slots.machine_id = claimed.machine_id
),
history AS (
    INSERT INTO step_attempts (step_id, attempt, controller_id)
    SELECT id, attempt, $1 FROM claimed
)
SELECT claimed.id AS step_id, claimed.kind, claimed.attempt, claimed.agent_id, jobs.disk_names, jobs.snapshot_id,
       jobs.minimum_consistency
FROM claimed JOIN jobs ON jobs.id = claimed.job_id
