-- The sequence number of the point that a commit builds upon: what is found damaged in that, the new one needs, too.
ALTER TABLE steps ADD COLUMN committing_base bigint;
