-- Enrolment tokens as they are shown. WHERE follows.
SELECT * FROM (
    SELECT t.id, t.created_by, t.created_at, t.expires_at, t.max_uses, t.uses, t.labels, t.machine_id,
           m.name AS machine_name, t.revoked_at,
           CASE WHEN t.revoked_at IS NOT NULL THEN 'revoked'
                WHEN t.uses >= t.max_uses THEN 'used_up'
                WHEN t.expires_at <= now() THEN 'expired'
                WHEN m.removed_at IS NOT NULL THEN 'machine_removed'
                ELSE 'usable' END AS state
    FROM enrolment_tokens t LEFT JOIN machines m ON m.id = t.machine_id
) t
