-- When a deletion was taken back last: whoever did that wants the point, whatever its policy keeps.
ALTER TABLE points ADD COLUMN undeleted_at timestamptz;
