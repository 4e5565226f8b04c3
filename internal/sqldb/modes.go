package sqldb

import (
	"errors"
	"io/fs"
	"os"
)

const fileMode = 0o600

// secureFiles makes the database, empty, if it is missing, and takes from the
// others the right to its files. SQLite gives those that it makes itself the mode
// of the database. It must run before SQLite has a file open in this process: to
// close one drops SQLite's locks.
func secureFiles(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-shm", "-reserve"} {
		fi, err := os.Stat(path + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && fi.Mode().Perm() != fileMode {
			err = os.Chmod(path+suffix, fileMode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
