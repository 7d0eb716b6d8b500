SELECT m.id, m.name, m.labels, m.labelled_at, m.quarantine,
       EXISTS (SELECT 1 FROM agents a WHERE a.machine_id = m.id) AS has_agent,
       coalesce(s.controller_id IS NOT NULL, false) AS online, s.last_seen_at,
       (SELECT max(p.created_at) FROM points p WHERE p.machine_id = m.id AND p.state = 'listed') AS last_point_at,
       (SELECT max(p.serves_until) FROM points p WHERE p.machine_id = m.id AND p.state = 'listed' AND p.is_whole) AS served_until
FROM machines m LEFT JOIN agent_sessions s ON s.machine_id = m.id
WHERE m.removed_at IS NULL
ORDER BY m.name
