SELECT j.id, j.state, j.machine_id, m.name AS machine_name, j.disk_names, j.point_id, j.error,
       j.created_at, j.started_at, j.ended_at, j.cancel_requested_at IS NOT NULL AS cancel_requested,
       j.policy_name, j.policy_revision, j.slot, j.deadline,
       (SELECT jsonb_agg(jsonb_build_object('id', s.id, 'kind', s.kind, 'state', s.state, 'attempt', s.attempt,
            'started_at', s.started_at, 'ended_at', s.ended_at, 'total_bytes', s.total_bytes,
            'read_bytes', s.read_bytes, 'changed_bytes', s.changed_bytes, 'sent_bytes', s.sent_bytes,
            -- Of a step that is to be tried again: why it was not done yet.
            'error', coalesce(s.error, CASE WHEN s.state IN ('pending', 'dispatched', 'running') THEN
                (SELECT a.error FROM step_attempts a WHERE a.step_id = s.id AND a.error IS NOT NULL
                 ORDER BY a.attempt DESC LIMIT 1) END))
            ORDER BY array_position(ARRAY['take_snapshot', 'transfer_data', 'release_snapshot'], s.kind))
        FROM steps s WHERE s.job_id = j.id) AS steps
FROM jobs j JOIN machines m ON m.id = j.machine_id
