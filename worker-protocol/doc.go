// Package workerprotocol speaks Nix's worker protocol, by which nix talks to nix-daemon over a
// Unix socket or through ssh, as a server and as a client, from version 1.18 to 1.38 with the
// features of Nix 2.35 and later. It has no store behind it: requests and responses are plain
// structs, and one definition of each serves both sides in every version.
//
// Everything on the wire is made of two things, in little endian:
//
//	integer   8 bytes; a boolean is 0 or 1, lists and maps begin with the number of entries
//	string    8 bytes of length, the bytes, zeros up to a multiple of 8
//
// A connection:
//
//	client  magic "cxin", version ─────────▶
//	        ◀──────────────────────────── magic "oixd", version   server
//	        [both 1.38: feature names] ────▶
//	        ◀──────────── [both 1.38: feature names]
//	        0 (no CPU affinity), 0 ────────▶
//	        ◀── [1.33: daemon's version] [1.35: trust], log, LAST
//	        operation, request [, data] ───▶
//	        ◀── log …  LAST, response [, data]    or    log …  ERROR, error
//
// The smaller of the two versions rules. While an operation runs the server may send log
// messages (NEXT, START_ACTIVITY, STOP_ACTIVITY, RESULT) until LAST or ERROR; after either the
// connection is ready for the next operation.
//
// Data comes in one of three ways. An archive or a text from the client is a row of frames, each
// a length and as many bytes, ended by a frame of length 0. Old clients answer READ messages of
// the server with pieces of an archive (AddToStoreNar in 1.21 and 1.22) or send the bare archive,
// whose end only its own syntax tells (AddToStoreNar before 1.21, AddToStore before 1.25). The
// server sends bare archives (NarFromPath).
//
// # Hostile peers
//
// What the other side claims is never believed: a string grows as its bytes arrive, a list as its
// entries arrive, and all that one message may occupy is limited (Limits). A message that breaks
// the grammar ends the connection; one that is well-formed but holds a bad value, such as a store
// path with a forbidden name, is read to its end and refused, and the connection stays usable.
package workerprotocol
