-- When it was put, or an agent of it spawned: what was used longest ago makes room.
ALTER TABLE components ADD COLUMN used_ms INTEGER NOT NULL DEFAULT 0;

-- When something was last written here, to within a second.
CREATE TABLE written (ms INTEGER NOT NULL);
INSERT INTO written VALUES (0);
