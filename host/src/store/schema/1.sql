-- Records are MessagePack; columns are what is asked for.

CREATE TABLE agents (
    -- In the order in which they were spawned.
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    -- 0 waits for its turn, 1 runs, 2 has ended.
    class INTEGER NOT NULL,
    -- Where it stands among those that wait.
    ticket INTEGER,
    ended_ms INTEGER,
    -- What is remembered of one that has ended, its log included.
    bytes INTEGER,
    known BLOB NOT NULL,
    born BLOB NOT NULL
);

CREATE INDEX agents_by_name ON agents (name);

-- Those that a host has to see to when it starts.
CREATE INDEX agents_open ON agents (class) WHERE class < 2;

-- All that a host holds of those that have ended, so that it reads nothing else.
CREATE INDEX agents_ended ON agents (ended_ms, number, id, bytes) WHERE class = 2;

CREATE TABLE replies (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    request TEXT NOT NULL,
    given_ms INTEGER NOT NULL,
    answer BLOB NOT NULL
);

CREATE TABLE components (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    facts BLOB NOT NULL
);

CREATE TABLE uploads (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    parts BLOB NOT NULL
);
