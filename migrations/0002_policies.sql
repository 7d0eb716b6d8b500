CREATE TABLE policies (
    id              uuid PRIMARY KEY,
    name            text COLLATE "C" NOT NULL UNIQUE,
    -- As the operator wrote it; `domain/policy.rs` reads it.
    spec            jsonb NOT NULL,
    revision        bigint NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    -- Slots up to here had their jobs, by the database's clock. Never before a change of the spec: slots of the past are no
    -- business of a new schedule.
    evaluated_until timestamptz NOT NULL DEFAULT now()
);

-- Since when its labels are as they are: what a policy wanted before that was not wanted of this machine.
ALTER TABLE machines ADD COLUMN labelled_at timestamptz NOT NULL DEFAULT now();

ALTER TABLE jobs
    -- No reference: the history outlives the policy.
    ADD COLUMN policy_id           uuid,
    ADD COLUMN policy_name         text,
    ADD COLUMN policy_revision     bigint,
    ADD COLUMN slot                timestamptz,
    -- Transfers go by the nearest one first.
    ADD COLUMN deadline            timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    ADD COLUMN minimum_consistency text NOT NULL DEFAULT 'file_system'
        CHECK (minimum_consistency IN ('application', 'file_system', 'crash')),
    ADD CHECK (slot IS NULL OR policy_id IS NOT NULL);
-- However many controllers look at a schedule, a slot makes one job.
CREATE UNIQUE INDEX jobs_one_per_slot ON jobs (policy_id, machine_id, slot);
