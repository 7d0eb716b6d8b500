-- When the protection of a machine was ended. The row stays, since its points do; its name is free for another one.
ALTER TABLE machines ADD COLUMN removed_at timestamptz;
ALTER TABLE machines DROP CONSTRAINT machines_name_key;
CREATE UNIQUE INDEX machines_living_name ON machines (name) WHERE removed_at IS NULL;
CREATE INDEX machines_by_name ON machines (name, id);
