// Package castore is the vocabulary of the content-addressed storage below a
// Nix store: what a store path is made of once its name is taken away, and the
// interfaces of the services that keep it.
//
// # Data model
//
// It is the model of tvix and snix (castore.v1), so that trees have the same
// names there and here:
//
//   - A blob is a sequence of bytes, named by its BLAKE3 digest, whatever the
//     way in which an implementation cuts, compresses or places it.
//   - A [Directory] is a list of named entries, named by the BLAKE3 digest of
//     its canonical encoding.
//   - A [Node] is what an entry or a store path refers to: a directory (by
//     digest, with the number of entries below it), a file (by the digest of
//     its blob, with its size and executable bit) or a symlink (by target).
//
// # Encoding
//
// A directory is the proto3 message below in its canonical form: fields in the
// order of their numbers, each list sorted by name, default values left out,
// shortest varints, nothing unknown. Only the canonical form is accepted, for
// its digest is the name of the directory.
//
//	Directory       1 repeated DirectoryEntry  2 repeated FileEntry  3 repeated SymlinkEntry
//	DirectoryEntry  1 name bytes   2 digest bytes   3 size uint64
//	FileEntry       1 name bytes   2 digest bytes   3 size uint64   4 executable bool
//	SymlinkEntry    1 name bytes   2 target bytes
//	Entry           1 DirectoryEntry | 2 FileEntry | 3 SymlinkEntry   (a [Node] without its name)
//
// A blob and a directory of equal bytes share one digest, and a service may
// keep them once: names are given to bytes, not to kinds.
package castore
