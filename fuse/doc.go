// Package fuse shows a store as a read-only file system.
//
// A mount has one folder, the root, whose entries come from [Roots] and may
// come and go. Everything below them is immutable: it is read from a castore by
// digest, and the kernel may keep whatever it was once told. So the options are
// chosen to be asked as rarely as possible: names, attributes, symlink targets,
// listings and pages stay in the kernel's caches for ever, and OPEN, OPENDIR and
// FLUSH are answered with ENOSYS, after which the kernel opens and closes files
// by itself. A warm tree is read without one request.
//
//	kernel ⇄ device ─ go-fuse's ProtocolServer ─ fileSystem ─┬─ nodeTable   id → node
//	            ▲       (decodes, encodes)                   ├─ root        names, listing
//	            └── Server.Added, Removed                    ├─ dirCache    decoded directories
//	                                                         └─ blobCache   open blobs
//
// # Nodes
//
// The kernel knows a file by a node number, which it learns from a lookup or a
// listing and gives back with FORGET. Equal files share one node, and with it
// the pages in the page cache; so do equal symlinks. A directory has one node
// for each place where it is seen, because the kernel allows a directory one
// name only and would move a process's working directory to another path.
//
// The number that stat shows (st_ino) is another one. It is derived from the
// contents: it survives a FORGET and a restart, and equal contents have equal
// numbers. With [Options.DistinctDirectories] that of a directory is derived from
// its path instead: programs such as cp take two directories of one number for
// one directory that was hard-linked.
//
// # What is gone
//
// A path can be collected while a process has its working directory or an open
// file in it. What such a process has not read yet is gone, which is ESTALE; a
// path that is valid and whose data is missing is EIO. The server tells them
// apart by asking Roots again.
//
// # Locks
//
// No lock is held across a call of the castore, nor across a notification: the
// kernel holds the root's lock while it waits for the answer to a lookup or a
// listing there, and [Server.Added] and [Server.Removed] wait for that lock. One
// lock is held while Roots is listed, and only listings take it.
package fuse
