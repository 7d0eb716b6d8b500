-- When what was asked for by a request was carried out, for those that are carried out outside of the database: a repetition later must
-- not do it once more.
ALTER TABLE requests ADD COLUMN done_at timestamptz;
