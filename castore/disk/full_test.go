package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// TestFullDisk runs the tests below on a small file system of their own, in a
// mount namespace of their own.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CASTORE_CHILD=full", "CASTORE_DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("may not make a mount namespace")
	}
	if strings.HasPrefix(string(out), "skip") {
		t.Skip(string(out))
	}
	if err != nil || !strings.HasSuffix(string(out), "passed\n") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fullChild(dir string) {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		fmt.Println("skip: cannot make mounts private:", err)
		return
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		fmt.Println("skip: cannot mount a tmpfs:", err)
		return
	}
	for name, test := range map[string]func(dir string) error{
		"stuck":   fullStuck,
		"sweep":   fullSweep,
		"punch":   fullPunch,
		"restart": fullRestart,
	} {
		sub := filepath.Join(dir, name)
		err := os.Mkdir(sub, 0o700)
		if err == nil {
			err = test(sub)
		}
		if err != nil {
			fmt.Printf("%s: %v\n", name, err)
			os.Exit(1)
		}
		os.RemoveAll(sub)
	}
	fmt.Println("passed")
}

// fill takes all the space that is left.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, n := range []int{1 << 20, 4096, 1} {
		for {
			if _, err := f.Write(make([]byte, n)); err != nil {
				if errors.Is(err, syscall.ENOSPC) {
					break
				}
				return err
			}
		}
	}
	return nil
}

// fullStuck fills the disk under a store: what was not written is neither lost
// nor promised, to anybody.
func fullStuck(dir string) error {
	ctx := context.Background()
	s, err := tryOpen(dir, nil)
	if err != nil {
		return err
	}
	before, small, large := noise(100<<10, 1), noise(1000, 2), noise(3<<20, 3)
	if _, err := s.PutBlob(ctx, before); err != nil {
		return err
	}
	if err := s.Sync(ctx); err != nil {
		return err
	}
	ballast := filepath.Join(filepath.Dir(dir), "ballast")
	if err := fill(ballast); err != nil {
		return err
	}
	if _, err := s.PutBlob(ctx, small); err != nil {
		return fmt.Errorf("put that needs no space yet: %w", err)
	}
	for range 3 {
		if err := s.Sync(ctx); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("Sync on a full disk: %v", err)
		}
		if _, err := s.PutBlob(ctx, large); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("put of a large blob on a full disk: %v", err)
		}
		if _, err := s.PutBlob(ctx, noise(2000, 4)); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("put of a small blob on a full disk: %v", err)
		}
		// A put of what is pending succeeds; so its Sync must fail.
		if _, err := s.PutBlob(ctx, small); err != nil {
			return fmt.Errorf("put of pending data: %w", err)
		}
		for _, data := range [][]byte{before, small} {
			if got, err := readBlob(s, castore.Sum(data)); err != nil || len(got) != len(data) {
				return fmt.Errorf("read on a full disk: %v", err)
			}
		}
		if has, err := s.Has(ctx, []castore.Digest{castore.Sum(large)}); err != nil || has[0] {
			return fmt.Errorf("half a blob is visible: %v", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if _, err := s.PutBlob(ctx, large); err != nil {
		return fmt.Errorf("after there was space again: %w", err)
	}
	if err := s.Sync(ctx); err != nil {
		return fmt.Errorf("after there was space again: %w", err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = tryOpen(dir, nil); err != nil {
		return err
	}
	defer s.Close()
	for _, data := range [][]byte{before, small, large} {
		if got, err := readBlob(s, castore.Sum(data)); err != nil || castore.Sum(got) != castore.Sum(data) {
			return fmt.Errorf("after reopening: %v", err)
		}
	}
	return nil
}

// fullSweep fills a store until nothing fits, and then collects it.
func fullSweep(dir string) error {
	ctx := context.Background()
	s, err := tryOpen(dir, func(o *Options) { o.PackBytes = 4 << 20 })
	if err != nil {
		return err
	}
	defer s.Close()
	keep := noise(100<<10, 1<<40)
	if _, err := s.PutBlob(ctx, keep); err != nil {
		return err
	}
	var puts int
	for err == nil {
		if _, err = s.PutBlob(ctx, noise(50<<10, uint64(puts))); err == nil && puts%100 == 99 {
			err = s.Sync(ctx)
		}
		puts++
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("put number %d: %w", puts, err)
	}
	if err := fill(filepath.Join(dir, "ballast")); err != nil {
		return err
	}
	live := castore.LiveNodes{{Kind: castore.KindFile, Digest: castore.Sum(keep), Size: uint64(len(keep))}}
	res, err := s.Sweep(ctx, live, castore.SweepOptions{})
	if err != nil {
		return fmt.Errorf("Sweep on a full disk: %w", err)
	}
	if res.FreedBytes < 8<<20 {
		return fmt.Errorf("Sweep on a full disk: %+v", res)
	}
	if err := s.Sync(ctx); err != nil {
		return fmt.Errorf("Sync after the sweep: %w", err)
	}
	if got, err := readBlob(s, castore.Sum(keep)); err != nil || len(got) != len(keep) {
		return fmt.Errorf("live blob: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		return err
	}
	if _, err := s.PutBlob(ctx, noise(1<<20, 77)); err != nil {
		return err
	}
	return s.Sync(ctx)
}

// fullRestart ends a store on a full disk, with data that cannot be written, and
// opens and collects it there.
func fullRestart(dir string) error {
	ctx := context.Background()
	reserve := func(o *sqldb.Options) { o.ReserveBytes = 2 << 20 }
	s, err := tryOpenDB(dir, reserve, nil)
	if err != nil {
		return err
	}
	keep := noise(300<<10, 1)
	for i := range uint64(60) {
		if _, err := s.PutBlob(ctx, noise(100<<10, 100+i)); err != nil {
			return err
		}
	}
	if _, err := s.PutBlob(ctx, keep); err != nil {
		return err
	}
	if err := s.Sync(ctx); err != nil {
		return err
	}
	if err := fill(filepath.Join(dir, "ballast")); err != nil {
		return err
	}
	if _, err := s.PutBlob(ctx, noise(1000, 2)); err != nil {
		return err
	}
	if err := s.Verify(ctx, func(p castore.Problem) { err = p.Err }); err != nil {
		return fmt.Errorf("Verify on a full disk: %w", err)
	}
	if err := s.Close(); err != nil {
		return fmt.Errorf("Close on a full disk: %w", err)
	}
	// What closing has freed goes too.
	if err := fill(filepath.Join(dir, "ballast2")); err != nil {
		return err
	}
	if s, err = tryOpenDB(dir, reserve, nil); err != nil {
		return fmt.Errorf("Open on a full disk: %w", err)
	}
	defer s.Close()
	if got, err := readBlob(s, castore.Sum(keep)); err != nil || len(got) != len(keep) {
		return fmt.Errorf("read after a restart: %v", err)
	}
	live := castore.LiveNodes{{Kind: castore.KindFile, Digest: castore.Sum(keep), Size: uint64(len(keep))}}
	res, err := s.Sweep(ctx, live, castore.SweepOptions{})
	if err != nil || res.Dropped < 60 {
		return fmt.Errorf("Sweep after a restart: %+v, %v", res, err)
	}
	freed := res.FreedBytes
	res, err = s.Sweep(ctx, castore.LiveNodes{}, castore.SweepOptions{})
	if freed += res.FreedBytes; err != nil || freed < 5<<20 {
		return fmt.Errorf("second Sweep after a restart: %+v, %v", res, err)
	}
	if _, err := s.PutBlob(ctx, keep); err != nil {
		return err
	}
	return s.Sync(ctx)
}

// fullPunch collects a full disk on which the only pack is half alive: there is no
// room to copy what lives, but the dead blocks' space comes back.
func fullPunch(dir string) error {
	ctx := context.Background()
	s, err := tryOpenDB(dir, func(o *sqldb.Options) { o.ReserveBytes = 4 << 20 }, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	var live castore.LiveNodes
	const size = 100 << 10
	for i := range uint64(100) {
		d, err := s.PutBlob(ctx, noise(size, i))
		if err != nil {
			return err
		}
		if i%2 == 0 {
			live = append(live, castore.Node{Kind: castore.KindFile, Digest: d, Size: size})
		}
	}
	if err := s.Sync(ctx); err != nil {
		return err
	}
	ballast := filepath.Join(filepath.Dir(dir), "ballast")
	if err := fill(ballast); err != nil {
		return err
	}
	intact := func(when string) error {
		for i, n := range live {
			if got, err := readBlob(s, n.Digest); err != nil || castore.Sum(got) != n.Digest {
				return fmt.Errorf("%s, live blob %d: %v", when, i, err)
			}
		}
		var problems []castore.Problem
		if err := s.Verify(ctx, func(p castore.Problem) { problems = append(problems, p) }); err != nil || len(problems) > 0 {
			return fmt.Errorf("%s: verify: %v %v", when, problems, err)
		}
		return nil
	}
	res, err := s.Sweep(ctx, live, castore.SweepOptions{})
	if err != nil || res.FreedBytes < 40*size {
		return fmt.Errorf("sweep on a full disk: %+v, %v", res, err)
	}
	if err := intact("after punching"); err != nil {
		return err
	}
	found := 0
	err = ScanPack(filepath.Join(dir, "packs", "000001.pack"),
		func(Record) error { found++; return nil },
		func(offset int64, err error) { found = -1 << 20 })
	if err != nil || found != len(live) {
		return fmt.Errorf("scan of a pack with holes: %d records, %v", found, err)
	}
	if _, err := s.PutBlob(ctx, noise(3*size, 1000)); err != nil {
		return fmt.Errorf("put after the sweep: %w", err)
	}
	if err := s.Sync(ctx); err != nil {
		return fmt.Errorf("sync after the sweep: %w", err)
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if _, err := s.Sweep(ctx, live, castore.SweepOptions{}); err != nil {
		return fmt.Errorf("sweep with room: %w", err)
	}
	return intact("after compacting")
}
