-- How often the point was found damaged; it only grows. A verification takes back no damage that was found while it ran.
ALTER TABLE points ADD COLUMN damages integer NOT NULL DEFAULT 0;
