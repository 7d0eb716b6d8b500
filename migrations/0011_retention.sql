-- Object lock. What the vault's storage itself retains of everything that a point needs: it deletes none of that before then,
-- whoever asks. NULL if it is not known to retain all of it. It outlasts a lock that was taken back.
ALTER TABLE points ADD COLUMN retained_mode text CHECK (retained_mode IN ('governance', 'compliance'));
ALTER TABLE points ADD COLUMN retained_until timestamptz;
ALTER TABLE points ADD CONSTRAINT points_retention_whole CHECK ((retained_mode IS NULL) = (retained_until IS NULL));
