-- Since when a policy wants backups of the machines and at the times that it does: a change of anything else, such as of its retention, must
-- not excuse a backup that is missing.
ALTER TABLE policies ADD COLUMN wanted_since timestamptz NOT NULL DEFAULT now();
UPDATE policies SET wanted_since = updated_at;
