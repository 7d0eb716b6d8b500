SELECT j.id, j.kind, j.state, j.machine_id, m.name AS machine_name, j.disk_names, j.point_id, j.error,
       j.created_at, j.started_at, j.ended_at, j.cancel_requested_at IS NOT NULL AS cancel_requested,
       j.policy_name, j.policy_revision, j.slot, j.deadline,
       (SELECT jsonb_agg(jsonb_build_object('id', s.id, 'kind', s.kind, 'state', s.state, 'attempt', s.attempt,
            'started_at', s.started_at, 'ended_at', s.ended_at, 'total_bytes', s.total_bytes,
            'read_bytes', s.read_bytes, 'changed_bytes', s.changed_bytes, 'sent_bytes', s.sent_bytes,
            'error', s.error)
            ORDER BY array_position(ARRAY['take_snapshot', 'transfer_data', 'release_snapshot'], s.kind))
        FROM steps s WHERE s.job_id = j.id) AS steps
FROM jobs j JOIN machines m ON m.id = j.machine_id
