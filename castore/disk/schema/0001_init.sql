-- The index of the packs: where each object is. It can be made again from the
-- packs, which are the truth.

CREATE TABLE castore_packs (
	id   INTEGER PRIMARY KEY,  -- number in the file name
	size INTEGER NOT NULL,     -- committed length of the file; what follows is unfinished
	salt BLOB NOT NULL,        -- from the pack's header
	dead INTEGER NOT NULL      -- 1: emptied by compaction, to be unlinked
) STRICT;

CREATE TABLE castore_blocks (
	-- Never used twice, so that a row of castore_objects whose block is gone
	-- cannot come to point to another one.
	id     INTEGER PRIMARY KEY AUTOINCREMENT,
	pack   INTEGER NOT NULL,
	offset INTEGER NOT NULL,     -- of the record in the pack
	length INTEGER NOT NULL,     -- of the record: header, table and payload
	raw    INTEGER NOT NULL,     -- length of the decoded payload
	kind   INTEGER NOT NULL,     -- Kind in format.go
	holes  INTEGER NOT NULL      -- 1: not all objects in its table are alive
) STRICT;

CREATE INDEX castore_blocks_by_pack ON castore_blocks (pack, offset);

CREATE TABLE castore_objects (
	digest BLOB PRIMARY KEY,
	block  INTEGER NOT NULL,  -- castore_blocks.id; the object is not there if the block is not
	slot   INTEGER NOT NULL,  -- in the table of the block
	size   INTEGER NOT NULL,  -- of the object, decoded; of the whole blob for a recipe
	recipe INTEGER NOT NULL   -- 1: the block is a recipe
) STRICT, WITHOUT ROWID;
