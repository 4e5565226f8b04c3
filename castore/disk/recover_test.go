package disk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tvixd/tvixd/castore"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, nil)
	if _, err := tryOpen(dir, nil); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: got %v, want ErrLocked", err)
	}
	if _, err := Rebuild(context.Background(), s.options); !errors.Is(err, ErrLocked) {
		t.Fatalf("Rebuild of an open store: got %v, want ErrLocked", err)
	}
	mustPut(t, s, []byte("x"))
	s.Close()
	mustRead(t, openTest(t, dir, nil), []byte("x"))
}

// TestLockStays removes what can be removed beside an open store.
func TestLockStays(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir, nil)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), "db") {
			must(t, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	if _, err := tryOpen(dir, nil); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: got %v, want ErrLocked", err)
	}
}

// TestStrangeNames has things in the folder of packs that are named like packs.
func TestStrangeNames(t *testing.T) {
	dir := t.TempDir()
	small := func(o *Options) { o.PackBytes = 100 << 10 }
	packs := filepath.Join(dir, "packs")
	strange := func(name string) string { return filepath.Join(packs, name+".pack") }
	must(t, os.MkdirAll(strange("000002"), 0o755))
	must(t, os.WriteFile(filepath.Join(strange("000002"), "inside"), nil, 0o600))
	must(t, syscall.Mkfifo(strange("000003"), 0o600))
	must(t, os.Symlink("/dev/null", strange("000005")))
	must(t, os.Mkdir(strange("4294967295"), 0o755))
	must(t, os.WriteFile(strange("4294967294"), noise(1000, 99), 0o600))
	var blobs [][]byte
	for i := range uint64(6) {
		s := openTest(t, dir, small)
		blobs = append(blobs, noise(80<<10, i))
		mustPut(t, s, blobs[i])
		mustReadAll(t, s, blobs)
		must(t, s.Close())
	}
	for _, id := range []string{"000001", "000004", "000006", "000007"} {
		if fi, err := os.Lstat(strange(id)); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("pack %s: %v, %v", id, fi, err)
		}
	}
	s := openTest(t, dir, small)
	mustSweep(t, s, fileNodes(blobs[:1]), castore.SweepOptions{})
	mustReadAll(t, s, blobs[:1])
	if got := mustReadFile(t, strange("4294967294")); !bytes.Equal(got, noise(1000, 99)) {
		t.Error("a strange file was changed")
	}
}

// copyFile copies a file over another.
func copyFile(tb testing.TB, to, from string) {
	tb.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// TestOldIndex is a loss of power: the packs, or a part of them, are newer than
// the database. What was committed reads, the rest reads or is not found, and
// what is not whole is cut off.
func TestOldIndex(t *testing.T) {
	dir := t.TempDir()
	pack := filepath.Join(dir, "packs", "000001.pack")
	db := filepath.Join(dir, "db.sqlite")
	s := openTest(t, dir, nil)
	old := [][]byte{prose(1000, 1), noise(100<<10, 1), noise(2<<20, 1)}
	for _, data := range old {
		mustPut(t, s, data)
	}
	s.Close()
	copyFile(t, db+".old", db)
	opened := filepath.Join(dir, generationFile)
	copyFile(t, opened+".old", opened)
	fi, err := os.Stat(pack)
	if err != nil {
		t.Fatal(err)
	}
	committed := fi.Size()
	s = openTest(t, dir, nil)
	young := [][]byte{prose(1000, 2), noise(100<<10, 2), noise(2<<20, 2), noise(500, 2)}
	for _, data := range young {
		mustPut(t, s, data)
		mustSync(t, s)
	}
	s.Close()
	copyFile(t, pack+".whole", pack)
	if fi, err = os.Stat(pack); err != nil {
		t.Fatal(err)
	}
	tail := fi.Size() - committed
	for i := range int64(12) {
		cut := committed + tail*i/11
		for _, how := range []string{"cut", "zero", "flip"} {
			copyFile(t, db, db+".old")
			copyFile(t, opened, opened+".old")
			copyFile(t, pack, pack+".whole")
			switch {
			case how == "cut":
				err = os.Truncate(pack, cut)
			case how == "zero":
				err = errors.Join(os.Truncate(pack, cut), os.Truncate(pack, committed+tail))
			case cut < committed+tail:
				flip(t, pack, cut)
			}
			if err != nil {
				t.Fatal(err)
			}
			s := openTest(t, dir, nil)
			mustReadAll(t, s, old)
			found := 0
			for _, data := range young {
				got, err := readBlob(s, castore.Sum(data))
				if err == nil && bytes.Equal(got, data) {
					found++
				} else if !errors.Is(err, castore.ErrNotFound) && !errors.Is(err, castore.ErrCorrupt) {
					t.Fatalf("%s at %d: blob of %d bytes: %v", how, cut, len(data), err)
				}
			}
			if i == 11 && found != len(young) {
				t.Errorf("%d of %d whole blobs were found again", found, len(young))
			}
			for _, data := range append(old, young...) {
				mustPut(t, s, data)
			}
			mustSync(t, s)
			mustReadAll(t, s, young)
			if p := problems(t, s); len(p) > 0 {
				t.Fatalf("%s at %d: Verify found %v", how, cut, p)
			}
			s.Close()
			s = openTest(t, dir, nil)
			mustReadAll(t, s, append(old, young...))
			s.Close()
		}
	}
}

// TestStrayPacks has files in the pack folder that the index does not know.
func TestStrayPacks(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, nil)
	data := noise(100<<10, 1)
	mustPut(t, s, data)
	s.Close()
	packs := filepath.Join(dir, "packs")
	for name, contents := range map[string]string{
		"000002.pack": "", "000003.pack": "tvixpa", "000007.pack": strings.Repeat("garbage", 1000), "README": "x", "x.pack": "x",
	} {
		if err := os.WriteFile(filepath.Join(packs, name), []byte(contents), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := openTest(t, t.TempDir(), nil)
	foreign := noise(100<<10, 2)
	for range 3 {
		mustPut(t, other, foreign)
	}
	other.Close()
	copyFile(t, filepath.Join(packs, "000005.pack"), filepath.Join(other.options.Dir, "packs", "000001.pack"))
	s = openTest(t, dir, nil)
	mustRead(t, s, data)
	if _, err := readBlob(s, castore.Sum(foreign)); !errors.Is(err, castore.ErrNotFound) {
		t.Fatalf("a pack under the name of another was believed: %v", err)
	}
	mustPut(t, s, noise(1000, 3))
	mustSync(t, s)
	mustRead(t, s, noise(1000, 3))
	if fi, err := os.Stat(filepath.Join(packs, "000007.pack")); err != nil || fi.Size() != 7000 {
		t.Errorf("stray file was touched: %v", err)
	}
}

// TestLostIndex accepts a database from before anything was stored: the packs tell
// everything.
func TestLostIndex(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "db.sqlite")
	openTest(t, dir, nil).Close()
	copyFile(t, db+".empty", db)
	s := openTest(t, dir, func(o *Options) { o.PackBytes = 1 << 20 })
	var blobs [][]byte
	for i := range uint64(8) {
		blobs = append(blobs, noise(300<<10, i), prose(1000, i), noise(2<<20, 100+i))
	}
	for _, data := range blobs {
		mustPut(t, s, data)
	}
	s.Close()
	copyFile(t, db, db+".empty")
	must(t, os.Remove(filepath.Join(dir, generationFile)))
	s = openTest(t, dir, nil)
	mustReadAll(t, s, blobs)
	before, _ := s.Stats(context.Background())
	for _, data := range blobs {
		mustPut(t, s, data)
	}
	mustSync(t, s)
	if after, _ := s.Stats(context.Background()); after != before {
		t.Errorf("puts of what is there changed %+v to %+v", before, after)
	}
}

// TestMain lets the test binary be the child process of TestKill.
func TestMain(m *testing.M) {
	switch os.Getenv("CASTORE_CHILD") {
	case "kill":
		killChild(os.Getenv("CASTORE_DIR"), os.Getenv("CASTORE_SEED"))
	case "full":
		fullChild(os.Getenv("CASTORE_DIR"))
	default:
		os.Exit(m.Run())
	}
}

// killBlob is blob number i of TestKill.
func killBlob(i int) []byte {
	switch {
	case i%50 == 49:
		return noise(1<<20+i, uint64(i))
	case i%10 == 9:
		return noise(80<<10+i, uint64(i))
	default:
		return prose(i%3000+1, uint64(i))
	}
}

// killChild puts blobs, syncs, and prints the number of the last one that is
// safe, until it is killed. Now and then it sweeps away what is odd.
func killChild(dir, seed string) {
	start, _ := strconv.Atoi(seed)
	s, err := tryOpen(dir, func(o *Options) { o.PackBytes = 2 << 20 })
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for i := start; ; i++ {
		if _, err := s.PutBlob(context.Background(), killBlob(i)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		if i%7 == 0 {
			if err := s.Sync(context.Background()); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
			fmt.Println("safe", i)
		}
		if i%40 == 39 {
			var live castore.LiveNodes
			for k := range i + 1 {
				live = append(live, castore.Node{Kind: castore.KindFile, Digest: castore.Sum(killBlob(k))})
			}
			for k := range 40 {
				s.PutBlob(context.Background(), noise(3000, uint64(1e9)+uint64(i*40+k))) // dead
			}
			if _, err := s.Sweep(context.Background(), live, castore.SweepOptions{DeadFraction: 0.01}); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
		}
	}
}

// TestKill kills a process that writes, syncs and sweeps, again and again in the
// same folder. Nothing for which a Sync has returned may be lost.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	safe := -1
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CASTORE_CHILD=kill", "CASTORE_DIR="+dir, fmt.Sprintf("CASTORE_SEED=%d", safe+1))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		wanted := 3 + round*2 // of good news before the kill
		for wanted > 0 && lines.Scan() {
			word, arg, _ := strings.Cut(lines.Text(), " ")
			if word != "safe" {
				t.Errorf("child: %s", lines.Text())
				break
			}
			safe, _ = strconv.Atoi(arg)
			wanted--
		}
		// Into the middle of whatever comes next.
		time.Sleep(time.Duration(round*3) * time.Millisecond)
		cmd.Process.Kill()
		for lines.Scan() {
			if arg, ok := strings.CutPrefix(lines.Text(), "safe "); ok {
				safe, _ = strconv.Atoi(arg)
			}
		}
		io.Copy(io.Discard, out)
		cmd.Wait()
		if t.Failed() {
			return
		}
		s := openTest(t, dir, nil)
		for i := range safe + 1 {
			mustRead(t, s, killBlob(i))
		}
		if p := problems(t, s); len(p) > 0 {
			t.Fatalf("round %d: Verify found %v", round, p)
		}
		s.Close()
	}
}
