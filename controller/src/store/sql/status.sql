SELECT
  (SELECT count(*) FROM machines m JOIN agent_sessions s ON s.machine_id = m.id
    WHERE m.removed_at IS NULL AND m.quarantine IS NULL AND s.controller_id IS NOT NULL) AS machines_online,
  (SELECT count(*) FROM machines m LEFT JOIN agent_sessions s ON s.machine_id = m.id
    WHERE m.removed_at IS NULL AND m.quarantine IS NULL AND s.controller_id IS NULL) AS machines_offline,
  (SELECT count(*) FROM machines WHERE removed_at IS NULL AND quarantine IS NOT NULL) AS machines_quarantined,
  (SELECT count(*) FROM jobs WHERE state = 'queued') AS jobs_queued,
  (SELECT count(*) FROM jobs WHERE state = 'running') AS jobs_running,
  (SELECT count(*) FROM jobs WHERE state = 'failed' AND ended_at > now() - interval '24 hours') AS jobs_failed_recently,
  (SELECT count(*) FROM points WHERE state IN ('listed', 'damaged')) AS points,
  (SELECT count(DISTINCT machine_id) FROM points WHERE state = 'damaged') AS machines_damaged,
  (SELECT count(*) FROM machines m
    WHERE coalesce(m.verified_at, m.enrolled_at) < now() - $1::interval
      AND EXISTS (SELECT 1 FROM points p WHERE p.machine_id = m.id AND p.state <> 'purged' AND p.created_at < now() - $1::interval)
  ) AS machines_unverified,
  (SELECT coalesce(sum(stored_bytes), 0)::bigint FROM points WHERE state <> 'purged') AS stored_bytes
