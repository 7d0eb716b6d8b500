-- Whose turn it is to be verified: who reads it, since when, and up to which segment it was read; whoever goes on begins after that.
ALTER TABLE machines ADD COLUMN verifier uuid;
ALTER TABLE machines ADD COLUMN verify_began timestamptz;
ALTER TABLE machines ADD COLUMN verified_to text;
