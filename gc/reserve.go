package gc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// reserve is a file of blocks that nothing uses: its space is there for a
// collection on a full disk.
type reserve struct {
	file string
	size int64
}

func (r reserve) free() error {
	if r.file == "" {
		return nil
	}
	if err := os.Remove(r.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the reserve file: %w", err)
	}
	return nil
}

// restore makes the file whole again. On a disk that is still full it leaves
// none, rather than take the last bytes for half of one.
func (r reserve) restore() error {
	if r.file == "" {
		return nil
	}
	f, err := os.OpenFile(r.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("create the reserve file: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() == r.size {
		return nil
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, r.size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = writeZeros(f, r.size)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("fill the reserve file: %w", err), os.Remove(r.file))
	}
	return nil
}

// writeZeros fills f where the file system cannot allocate blocks by itself.
func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, 64<<10)
	for size > 0 {
		n, err := f.Write(zeros[:min(size, int64(len(zeros)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}
