SELECT m.id, m.name, m.labels, m.os, m.quarantine, m.enrolled_at, m.removed_at, a.id IS NOT NULL AS has_agent,
       coalesce(a.version, '') AS agent_version,
       coalesce(s.controller_id IS NOT NULL, false) AS online,
       s.last_seen_at, m.labelled_at, m.verified_at,
       (SELECT greatest(coalesce(m.verified_at, m.enrolled_at), min(p.created_at)) FROM points p
        WHERE p.machine_id = m.id AND p.state <> 'purged' HAVING count(*) > 0) AS unverified_since,
       (SELECT max(p.created_at) FROM points p WHERE p.machine_id = m.id AND p.state = 'listed') AS last_point_at,
       (SELECT max(p.serves_until) FROM points p WHERE p.machine_id = m.id AND p.state = 'listed' AND p.is_whole) AS served_until,
       (SELECT count(*) FROM points p WHERE p.machine_id = m.id AND p.state = 'damaged') AS damaged_points,
       coalesce((SELECT jsonb_agg(jsonb_build_object('name', d.name, 'size_bytes', d.size_bytes) ORDER BY d.name)
                 FROM disks d WHERE d.machine_id = m.id), '[]') AS disks
FROM machines m
LEFT JOIN agents a ON a.machine_id = m.id
LEFT JOIN agent_sessions s ON s.machine_id = m.id
