-- $1 controller; $2, $3 agents and epochs that were heard of; $4, $5 attempts that were handed to them; $6 lease.
--
-- Only what was handed over is renewed: a claim whose answer got lost, or that went to a connection that was dead already,
-- runs into the end of its lease. Locked rows are skipped, a later flush takes them: this statement never waits for a row.
-- A session that is locked by a newer one shows its old epoch until that is there. Those of quarantined machines are answered as well as
-- those in whose place a newer one is: the controller that quarantined one has only its own sessions to close.
WITH heard AS (SELECT * FROM unnest($2::uuid[], $3::bigint[]) AS h (agent, epoch)),
handed AS (SELECT * FROM unnest($4::uuid[], $5::bigint[]) AS a (step, attempt)),
free_sessions AS (
    SELECT agent_id FROM agent_sessions WHERE agent_id = ANY($2) FOR NO KEY UPDATE SKIP LOCKED
),
seen AS (
    UPDATE agent_sessions s SET last_seen_at = now(), controller_id = $1
    FROM heard h, free_sessions f WHERE s.agent_id = h.agent AND f.agent_id = s.agent_id AND s.epoch = h.epoch
),
free_steps AS (
    SELECT id FROM steps WHERE id = ANY($4) FOR NO KEY UPDATE SKIP LOCKED
),
renewed AS (
    UPDATE steps SET lease_until = now() + $6::interval
    FROM handed, free_steps
    WHERE steps.id = handed.step AND free_steps.id = steps.id AND steps.attempt = handed.attempt
      AND steps.state IN ('dispatched', 'running') AND steps.controller_id = $1 AND steps.committing_seq IS NULL
)
SELECT h.agent, h.epoch, m.quarantine FROM heard h
LEFT JOIN agent_sessions s ON s.agent_id = h.agent AND s.epoch = h.epoch
LEFT JOIN machines m ON m.id = s.machine_id
WHERE s.agent_id IS NULL OR m.quarantine IS NOT NULL
