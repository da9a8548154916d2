-- Version 6: when an artifact's files were removed to keep the disk within its limit; NULL where they are there.

ALTER TABLE artifacts ADD COLUMN IF NOT EXISTS pruned TIMESTAMP;
