// Package sandbox runs a builder in namespaces of its own.
//
// A Config says what the builder sees and who it is. Start turns it into a
// list of system calls, runs the daemon's own binary again with that list, and
// a small C constructor (init_linux.c) performs it before Go's runtime starts
// there: about a millisecond from Start to the builder's first instruction.
//
// Isolated, the builder is process 1 of its namespaces and sees a root folder
// in memory with little in it; its store folder, build folder and /tmp are
// folders of the scratch disk. Not isolated, it sees the host's files, with a
// store folder that it may write to (an overlay over the mount) and a process 1
// of ours, so that no process of a builder outlives it either way.
package sandbox
