-- One row: which store this database belongs to, and how often it was opened. The
-- same is in a file beside the packs, to tell when one is there without the other.

CREATE TABLE castore_generation (
	store      BLOB NOT NULL,    -- random, 16 bytes
	generation INTEGER NOT NULL
) STRICT;
