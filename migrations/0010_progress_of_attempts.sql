-- When the current attempt last got on: it was claimed, another controller took it over, or a number of its progress changed.
ALTER TABLE steps ADD COLUMN progressed_at timestamptz NOT NULL DEFAULT now();
