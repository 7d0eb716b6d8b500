SELECT a.id AS agent_id, s.kind, s.state, s.attempt, m.id AS machine_id, m.name AS machine_name, m.quarantine,
       j.consistency, j.snapshot_taken_at, j.snapshot_id, j.snapshot_disks,
       (SELECT coalesce(max(p.seq), 0) FROM points p WHERE p.machine_id = m.id) AS last_seq,
       ARRAY(SELECT p.seq FROM points p WHERE p.machine_id = m.id AND p.damage IS NOT NULL AND p.state <> 'purged') AS damaged
FROM steps s
JOIN jobs j ON j.id = s.job_id
JOIN machines m ON m.id = j.machine_id
JOIN agents a ON a.machine_id = m.id
WHERE s.id = $1
