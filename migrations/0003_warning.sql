-- What made a snapshot less than it could be, such as a hook that failed: the job then ends with a warning.
ALTER TABLE jobs ADD COLUMN warning jsonb;
