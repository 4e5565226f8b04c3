// Package fusetest checks a mounted store against what it must show.
//
// [Fixture] puts a set of paths into a castore and returns the roots to mount;
// [Run] checks a mount of them. It uses nothing but the mount point, so that it
// can run where the mount is, in another process or a virtual machine. [Compare]
// checks a mounted tree against the same tree on a disk, and [Import] brings such
// a tree into a castore.
package fusetest
