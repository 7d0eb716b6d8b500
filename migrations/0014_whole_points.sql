-- Whether a point has all the disks that the policy wanted when it was made: one of fewer, which somebody asked for, meets no objective.
-- Of points whose job is not known it is not known either.
ALTER TABLE points ADD COLUMN is_whole boolean NOT NULL DEFAULT true;
UPDATE points SET is_whole = false FROM jobs
 WHERE jobs.point_id = points.id AND jobs.slot IS NULL AND jobs.disk_names <> '{}'
   AND NOT EXISTS (SELECT 1 FROM policies WHERE policies.id = jobs.policy_id AND policies.spec -> 'disks' <> '[]'
                     AND to_jsonb(jobs.disk_names) @> (policies.spec -> 'disks'));
DROP INDEX points_serving;
CREATE INDEX points_serving ON points (machine_id, serves_until DESC) WHERE state = 'listed' AND is_whole;
