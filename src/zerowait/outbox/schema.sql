-- One outbox. The header's application_id and user_version are set beside this (database.py); what is not this is refused.
-- Bodies are apart, so that settling a part of a segment does not rewrite its 256 KiB.

CREATE TABLE box (
    id    BLOB NOT NULL,      -- 8 bytes, big endian
    name  TEXT NOT NULL,      -- of the client or app that fills it
    epoch INT  NOT NULL,      -- of the last opening
    wall  INT  NOT NULL,      -- the outbox's own time at the last transaction, microseconds UTC
    turn  INT  NOT NULL       -- how many transactions: tells whether one whose commit failed is here after all
);

CREATE TABLE body (
    id      INTEGER PRIMARY KEY,
    refs    INT NOT NULL,     -- rows of message that use it
    lengths BLOB,             -- uint32 little endian for each message: where its payload ends in bytes; NULL: one alone
    bytes   BLOB NOT NULL,    -- a msgpack array of the payloads, as it travels
    crc     INT               -- CRC-32 of bytes and lengths; NULL in memory
);

CREATE TABLE message (        -- a row: messages of one channel, one key or none, one due time
    seq         INTEGER PRIMARY KEY,
    epoch       INT NOT NULL,
    first       INT NOT NULL,
    count       INT NOT NULL,
    channel     INT NOT NULL, -- of ledger
    priority    INT NOT NULL, -- -1, 0, 1
    key         BLOB,
    due         INT,          -- microseconds UTC; of a dead letter: when it died
    expires     INT,          -- microseconds UTC
    state       INT NOT NULL, -- 0 waiting or in flight, 1 prepared, 2 chosen (stub), 3 dead letter, 4 set aside
    gone        BLOB,         -- (offset, count) pairs of uint32 little endian: settled, or in rows of their own
    attempt     INT NOT NULL, -- failures so far
    deaths      BLOB,
    body        INT NOT NULL,
    input       BLOB,
    note        BLOB,         -- msgpack map: why it failed last
    home        INT NOT NULL, -- first of the segment it was accepted in
    accepted_at INT NOT NULL, -- microseconds UTC
    headers     BLOB,         -- msgpack map: number → the user's headers
    retried     INT NOT NULL DEFAULT 0 -- how often it was a dead letter and was given back
);
CREATE INDEX by_name ON message (epoch, first);  -- not unique: the first of a segment may leave it
CREATE INDEX ready   ON message (channel, priority, epoch, first) WHERE state = 0 AND due IS NULL AND deaths IS NULL;
CREATE INDEX due     ON message (channel, due) WHERE state = 0 AND due IS NOT NULL;
CREATE INDEX later   ON message (channel, epoch, first) WHERE state = 0 AND due IS NOT NULL;  -- to those who look in
CREATE INDEX expires ON message (expires) WHERE state = 0 AND expires IS NOT NULL;
CREATE INDEX in_key  ON message (channel, key, epoch, first) WHERE state = 0 AND key IS NOT NULL;
CREATE INDEX suspect ON message (channel, epoch, first) WHERE state = 0 AND deaths IS NOT NULL;
CREATE INDEX rest    ON message (state, seq) WHERE state > 0;

CREATE TABLE outcome (
    origin   BLOB NOT NULL,
    epoch    INT NOT NULL,
    first    INT NOT NULL,
    count    INT NOT NULL,
    dispatch BLOB NOT NULL,
    verdict  INT NOT NULL,
    note     BLOB,
    PRIMARY KEY (origin, epoch, first)
) WITHOUT ROWID;

CREATE TABLE noted (instance INTEGER PRIMARY KEY, at INT NOT NULL);  -- worker instances; two's complement of 64 bits

CREATE TABLE known (
    channel INT NOT NULL,
    id      TEXT NOT NULL,
    epoch   INT NOT NULL,
    number  INT NOT NULL,
    at      INT NOT NULL,
    digest  INT NOT NULL,     -- CRC-32 of the body
    state   INT,              -- how it has left the outbox, as receipts count states; NULL: it has not
    PRIMARY KEY (channel, id)
) WITHOUT ROWID;
CREATE INDEX known_at   ON known (at);
CREATE INDEX known_name ON known (epoch, number);

CREATE TABLE ledger (         -- accepted = handled + dead + expired + dropped + what waits or is in flight
    channel  INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    accepted INT NOT NULL,
    handled  INT NOT NULL,
    dead     INT NOT NULL,    -- dead letters that are here now
    expired  INT NOT NULL,
    dropped  INT NOT NULL,
    bytes    INT NOT NULL,    -- of what is here, dead letters included: payload and 64 each
    types    BLOB             -- msgpack array: descriptions of what was pushed to it last, each as SCHEMA has them
);
