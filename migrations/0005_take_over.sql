-- A token for one machine that exists: an agent that enrols with it takes that machine over.
ALTER TABLE enrolment_tokens ADD COLUMN machine_id uuid REFERENCES machines ON DELETE CASCADE;
