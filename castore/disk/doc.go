// Package disk keeps a castore in pack files on a local disk, with an index in
// SQLite.
//
// # Files
//
//	<Dir>                    locked (flock) while the store is open
//	<Dir>/generation         which store this is, and how often it was opened
//	<Dir>/packs/000001.pack  append-only, to about 512 MiB, never rewritten in place
//
// All of it is the owner's alone (0700 and 0600), whatever it was before.
//
// The generation is in the database too. When that is missing, or says less, it
// does not belong to the packs, and the store is not opened (generation.go).
//
// # Format
//
// A pack is a header and a row of records. A record holds one block, and tells
// all about it; the index can be made again from the packs alone. Numbers are
// little-endian, checksums CRC-32C.
//
//	pack header (64 bytes)
//	 0        8        12     16      24         40        60    64
//	 | magic  | version | zero | pack  | salt     | zero    | sum |
//	 | 8      | 4       | 4    | id 8  | 16       | 20      | 4   |
//
//	record
//	 0       4      5       6      8      16       24      28     32       36      40     44    48
//	 | magic | kind | codec | zero | salt | offset | count | raw  | stored | paysum | zero | sum | table … | payload …
//	 | 4     | 1    | 1     | 2    | 8    | 8      | 4     | 4    | 4      | 4      | 4    | 4   | 40·count| stored
//
//	table entry: digest 32, length 8
//
// The salt is the first 8 bytes of the pack's, and the offset is where the
// record begins: bytes inside of a payload, which anybody may have chosen,
// cannot pass for a record. sum covers the header up to itself and the table,
// paysum the payload as it is stored. The codec is 0 for raw or 1 for S2.
//
// What the payload decodes to depends on the kind:
//
//   - A data block is the concatenation of the objects in the table: many small
//     blobs and directories, one larger blob, or one chunk of a large one. It is
//     about 256 KiB, or a single object of up to 1 MiB.
//   - A recipe describes the one large blob in its table: for each of its chunks
//     the chunk's digest (32 bytes) and the offset in the blob at which it ends
//     (8 bytes). Blobs over 1 MiB are cut by FastCDC into chunks of about 256 KiB.
//   - A record is what [Store.AppendRecord] was given, under the caller's key.
//
// Objects are blobs, chunks and directories alike: bytes under a digest, kept
// once.
//
// # Life of a put
//
// A filter in memory (filter.go) tells most new objects from those that are
// there; for the others the index is asked, and the block looked at once. The
// bytes join the open block (pending.go) and are readable there. A full block
// is encoded by one of the workers and appended to the active pack.
// [Store.Sync] waits for the blocks on their way, makes the packs durable, and
// only then commits the index rows: the index never points to what may be lost.
// What a pack holds after its committed size was never promised; at the next
// start whole records there are indexed, and the rest is cut off. So a loss of
// power loses no object either for which a Sync returned, though the database may
// lose its last transactions.
//
// A write that fails for want of space is kept in memory and tried again: puts
// and syncs fail until it succeeds, and no caller whose data is not stored ever
// gets a good Sync.
//
// # Life of a read
//
// An object is looked up in the blocks in the cache, among the pending ones, then
// in the index, which gives a block and a slot. The whole record is read, its
// checksums and the digest in the slot are compared, and the decoded block goes
// to a bounded cache. So a damaged pack or a wrong index row gives an error,
// never other bytes. Blocks keep their id when compaction moves them; a reader
// that comes too late to the old place looks the object up again.
//
// # Sweeping
//
// Sweep marks from the live roots, ends if anything they need is missing or
// damaged, counts what lives in each block, unlinks
// packs without life before anything is written, deletes the index rows of dead
// objects, and rewrites packs that are dead in good part. Before a pack is
// unlinked the database is made durable, lest a loss of power brings rows back
// whose data is gone. See sweep.go for how this goes on beside puts.
//
// When there is no room to rewrite a pack, the payloads of its dead records are
// punched out of the file (punch.go). Headers and tables stay, so a scan steps
// over them.
//
// # Locks
//
// In the order in which they may be taken: sweepMu, syncMu, retryMu,
// gate, appendMu (appender.mu), Store.mu, then those of holds, packs, caches and
// sets, which are leaves. None is held across I/O, except: sweepMu around a
// sweep, syncMu around a synchronisation, retryMu and appendMu around an append,
// and the read side of gate around the look-up of one object.
package disk
