-- How often the step was tried in this round of its job: what its retries are counted by. `attempt` fences, and only grows: a
-- number that a claim had is never given out again, also if the claim was taken back.
ALTER TABLE steps ADD COLUMN tries integer NOT NULL DEFAULT 0;
UPDATE steps SET tries = least(attempt, 1000) WHERE state IN ('pending', 'dispatched', 'running');
