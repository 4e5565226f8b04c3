package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// The kernel refuses to write to a file system that is mounted read-only. The
// answers here are for one that was remounted, and for virtual machines.

const writeFlags = syscall.O_WRONLY | syscall.O_RDWR | syscall.O_TRUNC

// Open is answered with ENOSYS: from the first time on, the kernel opens and
// closes files by itself and keeps their pages.
func (f *fileSystem) Open(_ <-chan struct{}, in *gofuse.OpenIn, _ *gofuse.OpenOut) gofuse.Status {
	if in.Flags&writeFlags != 0 {
		return gofuse.EROFS
	}
	return gofuse.ENOSYS
}

// OpenDir is answered with ENOSYS, as Open is: the kernel keeps listings.
func (f *fileSystem) OpenDir(<-chan struct{}, *gofuse.OpenIn, *gofuse.OpenOut) gofuse.Status {
	return gofuse.ENOSYS
}

// Flush is answered with ENOSYS, so that closing a file is no request.
func (f *fileSystem) Flush(<-chan struct{}, *gofuse.FlushIn) gofuse.Status { return gofuse.ENOSYS }

// SetAttr refuses to change anything.
func (f *fileSystem) SetAttr(<-chan struct{}, *gofuse.SetAttrIn, *gofuse.AttrOut) gofuse.Status {
	return gofuse.EROFS
}

// Mknod refuses to make a file.
func (f *fileSystem) Mknod(<-chan struct{}, *gofuse.MknodIn, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EROFS
}

// Mkdir refuses to make a directory.
func (f *fileSystem) Mkdir(<-chan struct{}, *gofuse.MkdirIn, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EROFS
}

// Unlink refuses to remove a file.
func (f *fileSystem) Unlink(<-chan struct{}, *gofuse.InHeader, string) gofuse.Status {
	return gofuse.EROFS
}

// Rmdir refuses to remove a directory.
func (f *fileSystem) Rmdir(<-chan struct{}, *gofuse.InHeader, string) gofuse.Status {
	return gofuse.EROFS
}

// Rename refuses to rename.
func (f *fileSystem) Rename(<-chan struct{}, *gofuse.RenameIn, string, string) gofuse.Status {
	return gofuse.EROFS
}

// Link refuses to make a hard link.
func (f *fileSystem) Link(<-chan struct{}, *gofuse.LinkIn, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EROFS
}

// Symlink refuses to make a symlink.
func (f *fileSystem) Symlink(<-chan struct{}, *gofuse.InHeader, string, string, *gofuse.EntryOut) gofuse.Status {
	return gofuse.EROFS
}

// Create refuses to make a file.
func (f *fileSystem) Create(<-chan struct{}, *gofuse.CreateIn, string, *gofuse.CreateOut) gofuse.Status {
	return gofuse.EROFS
}

// Tmpfile refuses to make a file.
func (f *fileSystem) Tmpfile(<-chan struct{}, *gofuse.CreateIn, *gofuse.CreateOut) gofuse.Status {
	return gofuse.EROFS
}

// Write refuses to write.
func (f *fileSystem) Write(<-chan struct{}, *gofuse.WriteIn, []byte) (uint32, gofuse.Status) {
	return 0, gofuse.EROFS
}

// Writev refuses to write.
func (f *fileSystem) Writev(<-chan struct{}, *gofuse.WriteIn, [][]byte) (uint32, gofuse.Status) {
	return 0, gofuse.EROFS
}

// CopyFileRange refuses to write.
func (f *fileSystem) CopyFileRange(<-chan struct{}, *gofuse.CopyFileRangeIn) (uint32, gofuse.Status) {
	return 0, gofuse.EROFS
}

// Fallocate refuses to allocate.
func (f *fileSystem) Fallocate(<-chan struct{}, *gofuse.FallocateIn) gofuse.Status {
	return gofuse.EROFS
}

// SetXAttr refuses to set an attribute.
func (f *fileSystem) SetXAttr(<-chan struct{}, *gofuse.SetXAttrIn, string, []byte) gofuse.Status {
	return gofuse.EROFS
}

// RemoveXAttr refuses to remove an attribute.
func (f *fileSystem) RemoveXAttr(<-chan struct{}, *gofuse.InHeader, string) gofuse.Status {
	return gofuse.EROFS
}
