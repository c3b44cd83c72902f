-- When it was put, or an agent of it spawned: what was used longest ago makes room.
ALTER TABLE components ADD COLUMN used_ms INTEGER NOT NULL DEFAULT 0;
