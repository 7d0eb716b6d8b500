-- States are TEXT with CHECK so that a new one is an ordinary migration. Times are the database's clock.
-- Nothing here is a row per block or cell: about the vault, everything can be rebuilt from the vault.

CREATE TABLE machines (
    id          uuid PRIMARY KEY,
    name        text COLLATE "C" NOT NULL UNIQUE,
    labels      jsonb NOT NULL DEFAULT '{}',
    os          text NOT NULL DEFAULT '',
    -- Why nothing may run on it; NULL while all is well.
    quarantine  text,
    enrolled_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE disks (
    machine_id uuid NOT NULL REFERENCES machines ON DELETE CASCADE,
    name       text COLLATE "C" NOT NULL,
    size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
    PRIMARY KEY (machine_id, name)
);

CREATE TABLE agents (
    id          uuid PRIMARY KEY,
    machine_id  uuid NOT NULL UNIQUE REFERENCES machines ON DELETE CASCADE,
    version     text NOT NULL DEFAULT '',
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);

-- Public halves only: what was issued to whom.
CREATE TABLE certificates (
    serial    text PRIMARY KEY,
    agent_id  uuid NOT NULL REFERENCES agents ON DELETE CASCADE,
    issued_at timestamptz NOT NULL DEFAULT now(),
    not_after timestamptz NOT NULL
);
CREATE INDEX certificates_agent ON certificates (agent_id);

CREATE TABLE enrolment_tokens (
    hash       bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    labels     jsonb NOT NULL DEFAULT '{}',
    max_uses   integer NOT NULL CHECK (max_uses > 0),
    uses       integer NOT NULL DEFAULT 0 CHECK (uses <= max_uses),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

CREATE TABLE api_keys (
    hash       bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    name       text COLLATE "C" NOT NULL UNIQUE,
    role       text NOT NULL CHECK (role IN ('admin', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Which controller holds an agent's session. `epoch` grows with each Hello; a session with a smaller one
-- is over, wherever it is. No index on last_seen_at, so that its updates stay heap-only.
CREATE TABLE agent_sessions (
    agent_id      uuid PRIMARY KEY REFERENCES agents ON DELETE CASCADE,
    machine_id    uuid NOT NULL UNIQUE REFERENCES machines ON DELETE CASCADE,
    controller_id uuid,
    epoch         bigint NOT NULL DEFAULT 0,
    boot_id       text NOT NULL DEFAULT '',
    last_seen_at  timestamptz
) WITH (fillfactor = 70);

-- The busy marker of a machine. Every claim and every change of a job's or step's state locks this row first: a
-- locked row is read again under READ COMMITTED, a NOT EXISTS over other rows is not.
CREATE TABLE machine_slots (
    machine_id    uuid PRIMARY KEY REFERENCES machines ON DELETE CASCADE,
    active_job    uuid,
    last_claim_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

CREATE TABLE jobs (
    id                  uuid PRIMARY KEY,
    kind                text NOT NULL CHECK (kind IN ('backup')),
    state               text NOT NULL CHECK (state IN ('queued', 'running', 'succeeded',
                            'succeeded_with_warnings', 'failed', 'cancelled', 'expired')),
    machine_id          uuid NOT NULL REFERENCES machines ON DELETE CASCADE,
    -- Empty: all disks.
    disk_names          text[] NOT NULL DEFAULT '{}',
    requested_by        text NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    run_at              timestamptz NOT NULL DEFAULT now(),
    expires_at          timestamptz NOT NULL,
    started_at          timestamptz,
    ended_at            timestamptz,
    cancel_requested_at timestamptz,
    -- How many snapshots were begun for it: a lost one starts the next round.
    round               integer NOT NULL DEFAULT 1,
    -- The snapshot of this round, as the agent reported it.
    snapshot_id         uuid,
    snapshot_taken_at   timestamptz,
    consistency         text CHECK (consistency IN ('application', 'file_system', 'crash')),
    snapshot_disks      jsonb,
    point_id            uuid,
    error               jsonb,
    CHECK ((ended_at IS NULL) = (state IN ('queued', 'running')))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX jobs_one_running_backup ON jobs (machine_id) WHERE state = 'running' AND kind = 'backup';
CREATE INDEX jobs_queued ON jobs (machine_id, run_at, id) WHERE state = 'queued';
CREATE INDEX jobs_by_machine ON jobs (machine_id, id DESC);
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE state = 'queued';

CREATE TABLE steps (
    id             uuid PRIMARY KEY,
    job_id         uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    kind           text NOT NULL CHECK (kind IN ('take_snapshot', 'transfer_data', 'release_snapshot')),
    state          text NOT NULL CHECK (state IN ('pending', 'dispatched', 'running', 'done', 'failed', 'skipped')),
    -- Incremented by each claim; fences late reporters.
    attempt        bigint NOT NULL DEFAULT 0,
    -- The newest report of this attempt that was taken.
    report_seq     bigint NOT NULL DEFAULT 0,
    -- When it may be claimed; NULL while it waits for the step before it.
    ready_at       timestamptz,
    lease_until    timestamptz,
    controller_id  uuid,
    -- Set when the commit of this attempt began: from then on only the vault says what became of it.
    committing_seq bigint,
    started_at     timestamptz,
    ended_at       timestamptz,
    total_bytes    bigint NOT NULL DEFAULT 0,
    read_bytes     bigint NOT NULL DEFAULT 0,
    changed_bytes  bigint NOT NULL DEFAULT 0,
    sent_bytes     bigint NOT NULL DEFAULT 0,
    error          jsonb,
    UNIQUE (job_id, kind)
) WITH (fillfactor = 70);
CREATE INDEX steps_leased ON steps (lease_until) WHERE state IN ('dispatched', 'running');
CREATE INDEX steps_ready ON steps (job_id, ready_at) WHERE state = 'pending';

CREATE TABLE step_attempts (
    step_id       uuid NOT NULL REFERENCES steps ON DELETE CASCADE,
    attempt       bigint NOT NULL,
    controller_id uuid NOT NULL,
    claimed_at    timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    outcome       text CHECK (outcome IN ('done', 'failed', 'cancelled', 'lost')),
    error         jsonb,
    PRIMARY KEY (step_id, attempt)
);

-- An index of the point objects in the vault, which are the points.
CREATE TABLE points (
    id               uuid PRIMARY KEY,
    machine_id       uuid NOT NULL REFERENCES machines ON DELETE RESTRICT,
    seq              bigint NOT NULL,
    hash             bytea NOT NULL CHECK (octet_length(hash) = 32),
    created_at       timestamptz NOT NULL,
    consistency      text NOT NULL CHECK (consistency IN ('application', 'file_system', 'crash')),
    state            text NOT NULL CHECK (state IN ('listed', 'damaged')),
    damage           text,
    disks            jsonb NOT NULL,
    stored_bytes     bigint NOT NULL,
    UNIQUE (machine_id, seq)
);
CREATE INDEX points_newest ON points (created_at DESC, id DESC);
CREATE INDEX points_by_machine ON points (machine_id, created_at DESC, id DESC);

CREATE TABLE audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,
    action  text NOT NULL,
    subject text NOT NULL,
    detail  jsonb NOT NULL DEFAULT '{}'
);

-- request_id of mutations, kept for 24 hours.
CREATE TABLE requests (
    id          uuid PRIMARY KEY,
    method      text NOT NULL,
    body_hash   bytea NOT NULL,
    resource_id uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX requests_old ON requests (created_at);
