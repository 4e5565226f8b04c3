-- The metadata of valid paths. Every fact has one place; ids are internal and
-- never leave this package. Times are in seconds since 1970.

-- A row here is what makes a path valid.
CREATE TABLE paths (
    id         INTEGER PRIMARY KEY,
    path       TEXT    NOT NULL UNIQUE, -- "<hash>-<name>", without the store folder
    root       BLOB    NOT NULL,        -- castore node, as castore.MarshalNode writes it
    nar_hash   BLOB    NOT NULL,        -- SHA-256, 32 bytes
    nar_size   INTEGER NOT NULL,
    deriver    TEXT,                    -- like path; need not be valid
    ca         TEXT,                    -- "fixed:r:sha256:…"
    signatures TEXT,                    -- "key:base64", one a line, sorted
    ultimate   INTEGER NOT NULL,        -- 1 if built here
    registered INTEGER NOT NULL,
    last_use   INTEGER NOT NULL
) STRICT;

-- References between valid paths, those to itself included. Both directions
-- are answered from an index alone. The columns are ids of paths. They are not
-- declared as foreign keys, whose checks would take half the time of a
-- registration: rows are only made of ids read in the same transaction, and a
-- deletion looks for referrers by itself.
CREATE TABLE refs (
    referrer  INTEGER NOT NULL,
    reference INTEGER NOT NULL,
    PRIMARY KEY (referrer, reference)
) STRICT, WITHOUT ROWID;

CREATE INDEX refs_by_reference ON refs (reference, referrer);

-- The output paths of valid derivations that are known before a build. The
-- outputs need not be valid.
CREATE TABLE drv_outputs (
    drv    INTEGER NOT NULL REFERENCES paths (id),
    name   TEXT    NOT NULL,
    output TEXT    NOT NULL,
    PRIMARY KEY (drv, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX drv_outputs_by_output ON drv_outputs (output);

-- What outputs of content-addressed derivations were realised as.
CREATE TABLE realisations (
    id         INTEGER PRIMARY KEY,
    drv_output TEXT    NOT NULL UNIQUE, -- "sha256:<base16>!<output>"
    path       INTEGER NOT NULL REFERENCES paths (id),
    signatures TEXT                     -- like those of paths
) STRICT;

CREATE INDEX realisations_by_path ON realisations (path);

-- Which realisations were used in making one.
CREATE TABLE realisation_refs (
    referrer  INTEGER NOT NULL REFERENCES realisations (id),
    reference INTEGER NOT NULL REFERENCES realisations (id),
    PRIMARY KEY (referrer, reference)
) STRICT, WITHOUT ROWID;

CREATE INDEX realisation_refs_by_reference ON realisation_refs (reference);
