-- Deletion. The vault's events decide where a point stands; this is their index.
--
-- soft_deleted: it can be undeleted. purged: nothing is kept for it; the row stays, so that the point's name is never taken
-- for one that the catalogue forgot.
ALTER TABLE points DROP CONSTRAINT points_state_check;
ALTER TABLE points ADD CONSTRAINT points_state_check CHECK (state IN ('listed', 'damaged', 'soft_deleted', 'purged'));
-- How many of the point's events this row knows; it only grows.
ALTER TABLE points ADD COLUMN decisions integer NOT NULL DEFAULT 0;
ALTER TABLE points ADD COLUMN deleted_at timestamptz;
-- Not before; the vault's own time decides.
ALTER TABLE points ADD COLUMN purge_after timestamptz;
ALTER TABLE points ADD COLUMN lock_mode text CHECK (lock_mode IN ('governance', 'compliance'));
ALTER TABLE points ADD COLUMN locked_until timestamptz;
ALTER TABLE points ADD CONSTRAINT points_lock_whole CHECK ((lock_mode IS NULL) = (locked_until IS NULL));

-- Garbage collections that this catalogue knows of, newest last.
CREATE TABLE collections (
    id          uuid PRIMARY KEY,
    -- Of one that its schedule started: whoever inserts it first, runs it.
    slot        timestamptz UNIQUE,
    actor       text NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    -- What it did; NULL if it did not come to its end.
    report      jsonb,
    error       text
);
CREATE INDEX collections_newest ON collections (started_at DESC);
