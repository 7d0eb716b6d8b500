-- Indexes a point: $1 id, $2 machine, $3 sequence number, $4 hash, $5 made at, $6 consistency, $7 disks, $8 stored bytes; $9, $10 the
-- step and attempt that made it. It is whole unless somebody asked for some disks that are not all that the policy wants. It is damaged if
-- the point that its commit builds upon was found to be meanwhile. Answers its damage, if it is new.
WITH job AS (
    SELECT coalesce(j.slot, j.started_at) AS serves_until,
           j.slot IS NOT NULL OR j.disk_names = '{}'
               OR EXISTS (SELECT 1 FROM policies p WHERE p.id = j.policy_id AND p.spec -> 'disks' <> '[]'
                            AND to_jsonb(j.disk_names) @> (p.spec -> 'disks')) AS is_whole
    FROM steps s JOIN jobs j ON j.id = s.job_id
    WHERE s.id = $9 AND j.machine_id = $2
), base AS (
    SELECT format('point %s, upon which it is built, was found damaged: %s', p.id, p.damage) AS damage
    FROM steps s JOIN points p ON p.machine_id = $2 AND p.seq = s.committing_base
    WHERE s.id = $9 AND s.attempt = $10 AND s.committing_seq = $3 AND p.damage IS NOT NULL
)
INSERT INTO points (id, machine_id, seq, hash, created_at, consistency, state, damage, damages, disks, stored_bytes, step_id, attempt,
                    serves_until, is_whole)
VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN EXISTS (SELECT 1 FROM base) THEN 'damaged' ELSE 'listed' END,
        (SELECT damage FROM base), (SELECT count(*) FROM base), $7, $8, $9, $10,
        coalesce((SELECT serves_until FROM job), $5), coalesce((SELECT is_whole FROM job), true))
ON CONFLICT (id) DO NOTHING
RETURNING damage
