-- The newest slot that a point serves: its job's, or the last before its job began, if no schedule asked for it. When a point
-- was made says nothing about that: the one for yesterday's slot may come after today's.
ALTER TABLE points ADD COLUMN serves_until timestamptz;
UPDATE points SET serves_until = created_at;
UPDATE points SET serves_until = coalesce(jobs.slot, jobs.started_at) FROM jobs
 WHERE jobs.point_id = points.id AND coalesce(jobs.slot, jobs.started_at) IS NOT NULL;
ALTER TABLE points ALTER COLUMN serves_until SET NOT NULL;
CREATE INDEX points_serving ON points (machine_id, serves_until DESC) WHERE state = 'listed';
