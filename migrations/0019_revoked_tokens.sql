-- By what operators name a token, as the audit always did; and when one was ended before its time.
ALTER TABLE enrolment_tokens ADD COLUMN id text COLLATE "C" NOT NULL
    GENERATED ALWAYS AS (encode(substring(hash FROM 1 FOR 6), 'hex')) STORED UNIQUE;
ALTER TABLE enrolment_tokens ADD COLUMN revoked_at timestamptz;
CREATE INDEX enrolment_tokens_newest ON enrolment_tokens (created_at DESC, id DESC);
