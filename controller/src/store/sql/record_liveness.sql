-- $1 controller; $2, $3 agents and epochs that were heard of; $4, $5 attempts that were handed to them; $6 lease.
--
-- Only what was handed over is renewed: a claim whose answer got lost, or that went to a connection that was dead already,
-- runs into the end of its lease. Locked steps are skipped, the next flush takes them: this statement never waits for a row.
WITH heard AS (SELECT * FROM unnest($2::uuid[], $3::bigint[]) AS h (agent, epoch)),
handed AS (SELECT * FROM unnest($4::uuid[], $5::bigint[]) AS a (step, attempt)),
seen AS (
    UPDATE agent_sessions s SET last_seen_at = now(), controller_id = $1
    FROM heard h WHERE s.agent_id = h.agent AND s.epoch = h.epoch
    RETURNING s.agent_id
),
free AS (
    SELECT id FROM steps WHERE id = ANY($4) FOR NO KEY UPDATE SKIP LOCKED
),
renewed AS (
    UPDATE steps SET lease_until = now() + $6::interval
    FROM handed, free
    WHERE steps.id = handed.step AND free.id = steps.id AND steps.attempt = handed.attempt
      AND steps.state IN ('dispatched', 'running') AND steps.controller_id = $1 AND steps.committing_seq IS NULL
)
SELECT agent, epoch FROM heard WHERE agent NOT IN (SELECT agent_id FROM seen)
