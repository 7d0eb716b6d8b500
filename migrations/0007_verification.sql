-- When everything that a machine's points need was last read and compared, and since when that is done again.
ALTER TABLE machines ADD COLUMN verified_at timestamptz;
ALTER TABLE machines ADD COLUMN verifying_since timestamptz;
