-- The segment up to which what a machine's points need was read since its turn came: whoever goes on begins after it.
ALTER TABLE machines ADD COLUMN verified_to text;
