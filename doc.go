// Package tvixd is the root of the tvixd module: a daemon that speaks the Nix worker protocol
// and keeps the Nix store as content-addressed data behind a FUSE mount.
//
// It holds no code of its own. The folders are floors, and imports point downwards only:
//
//	5  cmd/tvixd                    one file a subcommand: flags, wiring, signals
//	4  daemon                       the socket, trust, operations, nix.conf
//	3  build  gc  fuse              what a store is used for
//	2  store                        a Nix store over castore and pathinfo
//	1  castore  pathinfo  worker-protocol
//	0  nixhash  storepath  nar  derivation  internal/…
//
// A test in this package checks them.
package tvixd
