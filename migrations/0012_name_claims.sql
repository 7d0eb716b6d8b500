-- Names of objects that are being taken, in vaults whose storage would let a name be taken twice. A row is there from before the object is
-- written until it is there; what stays longer is of a controller that was killed meanwhile.
CREATE TABLE name_claims (
    vault_id   uuid NOT NULL,
    name       text NOT NULL CHECK (name <> ''),
    -- BLAKE3 of the object.
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    -- The object, unless it is a segment: whoever finds a claim whose owner was killed writes it.
    content    bytea,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (vault_id, name)
);
