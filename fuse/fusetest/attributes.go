package fusetest

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func (m mounted) attributes() {
	for name, mode := range map[string]uint32{
		fileName:       syscall.S_IFREG | 0o444,
		executableName: syscall.S_IFREG | 0o555,
		keepName:       syscall.S_IFDIR | 0o555,
		linkName:       syscall.S_IFLNK | 0o777,
	} {
		st := m.lstat(name)
		second := syscall.Timespec{Sec: 1}
		if st.Mode != mode || st.Uid != 0 || st.Gid != 0 || st.Nlink != 1 || st.Mtim != second || st.Ctim != second || st.Atim != second {
			m.Errorf("%s: mode %o (want %o), owner %d:%d, %d links, times %v %v %v",
				name, st.Mode, mode, st.Uid, st.Gid, st.Nlink, st.Mtim, st.Ctim, st.Atim)
		}
		if st.Dev != m.lstat().Dev {
			m.Errorf("%s is on another device than the root", name)
		}
	}
}

func (m mounted) equalDirectories() {
	numbers := []uint64{
		m.lstat(keepName).Ino, m.lstat(complicatedName, "keep").Ino,
		m.lstat(equalName, "1").Ino, m.lstat(equalName, "2").Ino,
	}
	again := m.lstat(equalName, "1").Ino
	slices.Sort(numbers)
	distinct := len(slices.Compact(numbers))
	switch {
	case m.DistinctDirectories && distinct != 4:
		m.Errorf("four equal directories have %d inode numbers, want 4", distinct)
	case !m.DistinctDirectories && distinct != 1:
		m.Errorf("four equal directories have %d inode numbers, want 1", distinct)
	case again != m.lstat(equalName, "1").Ino:
		m.Error("a directory changed its inode number")
	}
}

func (m mounted) equalFiles() {
	if a, b := m.lstat(complicatedName, ".keep").Ino, m.lstat(complicatedName, "keep", ".keep").Ino; a != b {
		m.Errorf("equal files have inodes %d and %d", a, b)
	}
}

func (m mounted) equalSymlinks() {
	if a, b := m.lstat(complicatedName, "aa").Ino, m.lstat(link2Name).Ino; a != b {
		m.Errorf("equal symlinks have inodes %d and %d", a, b)
	}
}

func (m mounted) executableDiffers() {
	plain, script := m.lstat(equalName, "plain"), m.lstat(equalName, "script")
	if plain.Ino == script.Ino || plain.Mode != syscall.S_IFREG|0o444 || script.Mode != syscall.S_IFREG|0o555 {
		m.Errorf("inodes %d and %d, modes %o and %o", plain.Ino, script.Ino, plain.Mode, script.Mode)
	}
	if script.Ino != m.lstat(executableName).Ino {
		m.Error("equal executables have different inodes")
	}
}

// inodesOfListing compares the numbers in a listing with those of stat.
func (m mounted) inodesOfListing() {
	for _, dir := range []string{complicatedName, equalName} {
		for name, ino := range m.direntInodes(dir) {
			var st syscall.Stat_t
			if err := syscall.Lstat(m.path(dir)+"/"+name, &st); err != nil {
				m.Fatal(err)
			}
			if name == ".." {
				continue // on the mount point's own root it is another file system
			}
			if st.Ino != ino {
				m.Errorf("%s/%s: inode %d listed, %d in stat", dir, name, ino, st.Ino)
			}
		}
	}
}

func (m mounted) direntInodes(dir string) map[string]uint64 {
	fd, err := syscall.Open(m.path(dir), syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		m.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	numbers := map[string]uint64{}
	buf := make([]byte, 4096)
	n, err := syscall.Getdents(fd, buf)
	if err != nil {
		m.Fatal(err)
	}
	for b := buf[:n]; len(b) > 0; {
		reclen := int(b[16]) | int(b[17])<<8
		ino := uint64(0)
		for i := range 8 {
			ino |= uint64(b[i]) << (8 * i)
		}
		name, _, _ := strings.Cut(string(b[19:reclen]), "\x00")
		numbers[name] = ino
		b = b[reclen:]
	}
	if len(numbers) < 5 || numbers["."] == 0 || numbers[".."] == 0 {
		m.Errorf("listing %v lacks entries", numbers)
	}
	return numbers
}

func (m mounted) wrongNames() {
	for range 2 {
		for _, name := range []string{
			fileName[:len(fileName)-1],              // right hash, wrong name
			fileName + "x", fileName[1:], "nothing", // wrong hash, no store path
			".go-fuse-epoll-hack",
		} {
			_, err := os.Lstat(m.path(name))
			m.wantErr("lstat "+name, err, syscall.ENOENT)
			_, err = os.Lstat(m.path(complicatedName, name))
			m.wantErr("nested lstat "+name, err, syscall.ENOENT)
		}
		m.lstat(fileName)
	}
	_, err := os.Lstat(m.path(strings.Repeat("n", 256)))
	m.wantErr("lstat of a name of 256 bytes", err, syscall.ENAMETOOLONG)
}

func (m mounted) writesRefused() {
	file, dir, none := m.path(fileName), m.path(keepName), m.path(keepName, "new")
	openFor := func(path string, flags int) error {
		f, err := os.OpenFile(path, flags, 0o644)
		if err == nil {
			_ = f.Close()
		}
		return err
	}
	for what, err := range map[string]error{
		"create at root":  openFor(m.path("22222222222222222222222222222223-new"), os.O_CREATE|os.O_WRONLY),
		"create nested":   openFor(none, os.O_CREATE|os.O_RDWR),
		"open for write":  openFor(file, os.O_WRONLY),
		"open for update": openFor(file, os.O_RDWR),
		"truncate":        os.Truncate(file, 0),
		"mkdir":           os.Mkdir(none, 0o755),
		"mkfifo":          syscall.Mkfifo(none, 0o644),
		"symlink":         os.Symlink("x", none),
		"link":            os.Link(file, none),
		"unlink":          syscall.Unlink(file),
		"rmdir":           syscall.Rmdir(dir),
		"rename":          os.Rename(file, m.path("22222222222222222222222222222223-new")),
		"chmod":           os.Chmod(file, 0o777),
		"chown":           os.Lchown(file, 1, 1),
		"utimes":          syscall.UtimesNano(file, make([]syscall.Timespec, 2)),
		"setxattr":        unix.Setxattr(file, "user.x", []byte("y"), 0),
		"removexattr":     unix.Removexattr(file, "user.x"),
		"access":          unix.Access(file, unix.W_OK),
	} {
		m.wantErr(what, err, syscall.EROFS)
	}
	if m.read(fileName) != fileContents {
		m.Error("contents changed")
	}
}

func (m mounted) missingDirectory() {
	if st := m.lstat(noDirectoryName); st.Mode != syscall.S_IFDIR|0o555 {
		m.Errorf("mode %o", st.Mode)
	}
	for range 2 { // the error must not be kept as an empty listing
		_, err := os.ReadDir(m.path(noDirectoryName))
		m.wantErr("list", err, syscall.EIO)
		_, err = os.Lstat(m.path(noDirectoryName, ".keep"))
		m.wantErr("lstat of an entry", err, syscall.EIO)
	}
}

func (m mounted) missingBlob() {
	if st := m.lstat(noBlobName); st.Mode != syscall.S_IFREG|0o444 || st.Size != 12 {
		m.Errorf("mode %o, size %d", st.Mode, st.Size)
	}
	for range 2 {
		_, err := os.ReadFile(m.path(noBlobName))
		m.wantErr("read", err, syscall.EIO)
	}
}

// wrongSize reads a file whose blob is shorter than its node says. It must not
// do harm to the right one either.
func (m mounted) wrongSize() {
	_, err := os.ReadFile(m.path(wrongSizeName))
	m.wantErr("read", err, syscall.EIO)
	if m.read(fileName) != fileContents {
		m.Error("the file with the right size has other contents now")
	}
}

func (m mounted) notADirectory() {
	_, err := os.Lstat(m.path(fileName, "x"))
	m.wantErr("lstat below a file", err, syscall.ENOTDIR)
	_, err = os.ReadDir(m.path(fileName))
	m.wantErr("list a file", err, syscall.ENOTDIR)
	_, err = os.ReadFile(m.path(keepName))
	m.wantErr("read a directory", err, syscall.EISDIR)
}

func (m mounted) access() {
	for _, path := range []string{m.Dir, m.path(keepName), m.path(executableName)} {
		if err := unix.Access(path, unix.R_OK|unix.X_OK); err != nil {
			m.Errorf("access to %s: %v", path, err)
		}
	}
	m.wantErr("execute a plain file", unix.Access(m.path(fileName), unix.X_OK), syscall.EACCES)
}

func (m mounted) xattr() {
	buf := make([]byte, 256)
	for path, attr := range map[string]string{
		fileName: "user.tvix.castore.blob.digest",
		keepName: "user.tvix.castore.directory.digest",
	} {
		n, err := unix.Lgetxattr(m.path(path), attr, buf)
		listed, listErr := unix.Llistxattr(m.path(path), buf[128:])
		if !m.Xattr {
			m.wantErr("getxattr", err, syscall.ENOTSUP)
			if listErr != nil && !errors.Is(listErr, syscall.ENOTSUP) || listed > 0 {
				m.Errorf("listxattr: %d bytes, %v", listed, listErr)
			}
			continue
		}
		if err != nil || !strings.HasPrefix(string(buf[:max(n, 0)]), "blake3-") {
			m.Errorf("%s of %s: %q, %v", attr, path, buf[:max(n, 0)], err)
		}
		if listErr != nil || string(buf[128:128+max(listed, 0)]) != attr+"\x00" {
			m.Errorf("attributes of %s: %q, %v", path, buf[128:128+max(listed, 0)], listErr)
		}
		_, err = unix.Lgetxattr(m.path(path), attr, buf[:3])
		m.wantErr("getxattr into a small buffer", err, syscall.ERANGE)
		_, err = unix.Lgetxattr(m.path(path), "user.other", buf)
		m.wantErr("getxattr of another one", err, syscall.ENODATA)
	}
}

func (m mounted) statfs() {
	var st syscall.Statfs_t
	if err := syscall.Statfs(m.Dir, &st); err != nil {
		m.Fatal(err)
	}
	if st.Namelen != 255 || st.Bsize == 0 || st.Flags&unix.ST_RDONLY == 0 {
		m.Errorf("statfs %+v", st)
	}
}
