-- Which attempt of which step made the point: an agent that reports another one's was not heard right. NULL for points whose
-- job is not known any more.
ALTER TABLE points ADD COLUMN step_id uuid;
ALTER TABLE points ADD COLUMN attempt bigint;
UPDATE points SET step_id = steps.id, attempt = steps.attempt FROM jobs JOIN steps ON steps.job_id = jobs.id
 WHERE jobs.point_id = points.id AND steps.kind = 'transfer_data';
