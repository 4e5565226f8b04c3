package sqldb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

func openTest(tb testing.TB, opts Options) *DB {
	tb.Helper()
	db, err := Open(filepath.Join(tb.TempDir(), "a b?c#d%20", "..", "db%41?.sqlite"), opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	return db
}

var ctx = context.Background()

func exec(tb testing.TB, db *DB, query string, args ...any) {
	tb.Helper()
	err := db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func count(tb testing.TB, db *DB, query string, args ...any) (n int) {
	tb.Helper()
	err := db.Lookup(ctx, func(tx *Tx) error { return tx.QueryRow(query, args...).Scan(&n) })
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestPathIsTakenLiterally(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x%20?mode=memory#y.sqlite")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if fileSize(path) == 0 || db.Path() != path {
		t.Fatalf("no database at %s", path)
	}
}

func TestValues(t *testing.T) {
	db := openTest(t, Options{})
	exec(t, db, "CREATE TABLE t (i INTEGER, u INTEGER, s TEXT, b BLOB, f BLOB, n INTEGER, z TEXT) STRICT")
	fixed := [4]byte{1, 2, 3, 4}
	exec(t, db, "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?)", -5, uint64(math.MaxUint64), "text\x00é", []byte{}, fixed[:], true, nil)
	err := db.Read(ctx, func(tx *Tx) error {
		var (
			i int64
			u uint64
			s string
			b = []byte("x")
			f [4]byte
			n bool
			z = "x"
		)
		if err := tx.QueryRow("SELECT * FROM t").Scan(&i, &u, &s, &b, f[:], &n, &z); err != nil {
			return err
		}
		if i != -5 || u != math.MaxUint64 || s != "text\x00é" || len(b) != 0 || f != fixed || !n || z != "" {
			t.Errorf("got %v %v %q %v %v %v %q", i, u, s, b, f, n, z)
		}
		if err := tx.QueryRow("SELECT f FROM t").Scan(make([]byte, 3)); !errors.Is(err, errScan) {
			t.Errorf("fixed target of another length: %v", err)
		}
		if err := tx.QueryRow("SELECT s FROM t").Scan(&i); !errors.Is(err, errScan) {
			t.Errorf("text into a number: %v", err)
		}
		if err := tx.QueryRow("SELECT s FROM t").Scan(&s, &i); err == nil {
			t.Error("two targets for one column give no error")
		}
		if err := tx.QueryRow("SELECT s FROM t WHERE i = 0").Scan(&s); !errors.Is(err, ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
		if _, err := tx.Exec("INSERT INTO t (i) VALUES (1)"); err == nil {
			t.Error("a reader could write")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO t (i) VALUES (?)", time.Now())
		return err
	})
	if !errors.Is(err, errArgument) {
		t.Errorf("argument of a foreign type: %v", err)
	}
}

func TestNestedQueries(t *testing.T) {
	db := openTest(t, Options{})
	exec(t, db, "CREATE TABLE t (n INTEGER) STRICT")
	for i := range 3 {
		exec(t, db, "INSERT INTO t VALUES (?)", i)
	}
	pairs := 0
	err := db.Read(ctx, func(tx *Tx) error {
		outer := tx.Query("SELECT n FROM t")
		defer outer.Close()
		for outer.Next() {
			inner := tx.Query("SELECT n FROM t") // the same statement, while it is busy
			for inner.Next() {
				pairs++
			}
			inner.Close()
			inner.Close()
		}
		return outer.Err()
	})
	if err != nil || pairs != 9 {
		t.Fatalf("%d pairs, %v", pairs, err)
	}
}

func TestWriteFailures(t *testing.T) {
	db := openTest(t, Options{})
	exec(t, db, "CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT")
	bad := errors.New("bad")
	// The writer is kept busy so that the calls share a transaction.
	block, blocked := make(chan struct{}), make(chan struct{})
	go db.Write(ctx, func(*Tx) error { close(blocked); <-block; return nil })
	<-blocked
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() {
				if r := recover(); (r != nil) != (i%3 == 2) {
					t.Errorf("call %d: recovered %v", i, r)
				}
			}()
			err := db.Write(ctx, func(tx *Tx) error {
				if _, err := tx.Exec("INSERT INTO t VALUES (?)", i); err != nil {
					return err
				}
				switch i % 3 {
				case 1:
					return bad
				case 2:
					panic("bad")
				}
				return nil
			})
			if (i%3 == 1) != errors.Is(err, bad) {
				t.Errorf("call %d: %v", i, err)
			}
		}()
	}
	for len(db.writes) < 30 {
		time.Sleep(time.Millisecond)
	}
	close(block)
	wg.Wait()
	if n := count(t, db, "SELECT count(*) FROM t WHERE n % 3 = 0"); n != 10 {
		t.Errorf("%d rows of the calls that succeeded", n)
	}
	if n := count(t, db, "SELECT count(*) FROM t"); n != 10 {
		t.Errorf("%d rows in all", n)
	}
	err := db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO t VALUES (0)")
		return err
	})
	if !errors.Is(err, ErrConstraint) {
		t.Errorf("duplicate key: %v", err)
	}
}

func TestWriteCancelled(t *testing.T) {
	db := openTest(t, Options{})
	block, blocked := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- db.Write(ctx, func(*Tx) error { close(blocked); <-block; return nil }) }()
	<-blocked
	cctx, cancel := context.WithCancel(ctx)
	ran := false
	waiting := make(chan error, 1)
	go func() { waiting <- db.Write(cctx, func(*Tx) error { ran = true; return nil }) }()
	for len(db.writes) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v", err)
	}
	close(block)
	if err := <-done; err != nil {
		t.Error(err)
	}
	exec(t, db, "CREATE TABLE t (n INTEGER) STRICT")
	if ran {
		t.Error("a cancelled function ran")
	}
	for _, err := range []error{
		db.Write(cctx, func(*Tx) error { return nil }),
		db.Read(cctx, func(*Tx) error { return nil }),
		db.Lookup(cctx, func(*Tx) error { return nil }),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v", err)
		}
	}
}

func TestSnapshot(t *testing.T) {
	db := openTest(t, Options{})
	exec(t, db, "CREATE TABLE t (n INTEGER) STRICT")
	err := db.Read(ctx, func(tx *Tx) error {
		var before, after int
		if err := tx.QueryRow("SELECT count(*) FROM t").Scan(&before); err != nil {
			return err
		}
		exec(t, db, "INSERT INTO t VALUES (1)")
		if n := count(t, db, "SELECT count(*) FROM t"); n != 1 {
			t.Errorf("a committed row is not seen by others: %d", n)
		}
		if err := tx.QueryRow("SELECT count(*) FROM t").Scan(&after); err != nil {
			return err
		}
		if before != after {
			t.Errorf("snapshot changed from %d to %d rows", before, after)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConcurrency(t *testing.T) {
	db := openTest(t, Options{Readers: 2, CheckpointBytes: 64 << 10})
	exec(t, db, "CREATE TABLE t (w INTEGER, n INTEGER) STRICT")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 100 {
				err := db.Write(ctx, func(tx *Tx) error {
					_, err := tx.Exec("INSERT INTO t VALUES (?, ?)", w, i)
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
				if n := count(t, db, "SELECT count(*) FROM t WHERE w = ?", w); n != i+1 {
					t.Errorf("writer %d sees %d of its %d rows", w, n, i+1)
					return
				}
			}
		}()
	}
	wg.Wait()
}

func TestLogIsBounded(t *testing.T) {
	db := openTest(t, Options{CheckpointBytes: 64 << 10})
	exec(t, db, "CREATE TABLE t (n INTEGER, b BLOB) STRICT")
	largest := int64(0)
	for i := range 300 {
		exec(t, db, "INSERT INTO t VALUES (?, ?)", i, make([]byte, 20_000))
		if i%50 == 0 {
			if err := db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		largest = max(largest, fileSize(db.Path()+"-wal"))
	}
	// The hard limit and one transaction more.
	if limit := int64(logHardFactor*64<<10 + 100_000); largest > limit {
		t.Errorf("log grew to %d bytes, limit %d", largest, limit)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if n := fileSize(db.Path() + "-wal"); n != 0 {
		t.Errorf("log has %d bytes after Close", n)
	}
}

func TestClosed(t *testing.T) {
	db := openTest(t, Options{})
	exec(t, db, "CREATE TABLE t (n INTEGER) STRICT")
	db.Close()
	db.Close()
	for _, err := range []error{
		db.Write(ctx, func(*Tx) error { return nil }),
		db.Read(ctx, func(*Tx) error { return nil }),
		db.Lookup(ctx, func(*Tx) error { return nil }),
		db.Flush(),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
}

func TestMigrate(t *testing.T) {
	db := openTest(t, Options{})
	files := fstest.MapFS{
		"0001_a.sql": {Data: []byte("CREATE TABLE a (n INTEGER) STRICT; INSERT INTO a VALUES (1);")},
		"README.md":  {Data: []byte("not a migration")},
	}
	for range 2 {
		if err := db.Migrate(ctx, "x", files); err != nil {
			t.Fatal(err)
		}
	}
	files["0002_b.sql"] = &fstest.MapFile{Data: []byte("ALTER TABLE a ADD COLUMN m INTEGER; INSERT INTO a VALUES (2, 3);")}
	if err := db.Migrate(ctx, "x", files); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "SELECT count(*) FROM a"); n != 2 {
		t.Fatalf("%d rows, want 2", n)
	}
	files["0003_c.sql"] = &fstest.MapFile{Data: []byte("INSERT INTO a VALUES (3, 3); INSERT INTO nowhere VALUES (1);")}
	if err := db.Migrate(ctx, "x", files); err == nil {
		t.Fatal("a broken migration gives no error")
	}
	if n := count(t, db, "SELECT count(*) FROM a"); n != 2 {
		t.Fatalf("a broken migration left %d rows", n)
	}
	delete(files, "0003_c.sql")
	delete(files, "0002_b.sql")
	if err := db.Migrate(ctx, "x", files); !errors.Is(err, ErrNewer) {
		t.Fatalf("schema of a newer version: %v", err)
	}
	if err := db.Migrate(ctx, "y", fstest.MapFS{}); err != nil {
		t.Fatal(err)
	}
}

func TestReserve(t *testing.T) {
	db := openTest(t, Options{ReserveBytes: 1 << 20})
	exec(t, db, "CREATE TABLE t (n INTEGER) STRICT")
	path := db.Path() + "-reserve"
	if fileSize(path) != 1<<20 {
		t.Fatalf("reserve has %d bytes", fileSize(path))
	}
	tries := 0
	err := db.Reclaim(ctx, func(tx *Tx) error {
		if tries++; tries == 1 {
			return fmt.Errorf("no space: %w", syscall.ENOSPC)
		}
		_, err := tx.Exec("INSERT INTO t VALUES (1)")
		return err
	})
	if err != nil || tries != 2 || count(t, db, "SELECT count(*) FROM t") != 1 {
		t.Fatalf("Reclaim: %v after %d tries", err, tries)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("reserve was kept: %v", err)
	}
	if err := db.Reclaim(ctx, func(*Tx) error { return syscall.ENOSPC }); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("without a reserve: %v", err)
	}
	db.FillReserve()
	if fileSize(path) != 1<<20 {
		t.Fatal("reserve did not come back")
	}
}

// TestFull fills the database up to a limit of its own.
func TestFull(t *testing.T) {
	db := openTest(t, Options{})
	exec(t, db, "CREATE TABLE t (n INTEGER, b BLOB) STRICT")
	exec(t, db, "INSERT INTO t VALUES (0, NULL)")
	write := func(n int) error {
		return db.Write(ctx, func(tx *Tx) error {
			rows := tx.Query("PRAGMA max_page_count = 40")
			for rows.Next() {
			}
			rows.Close()
			for i := range n {
				if _, err := tx.Exec("INSERT INTO t VALUES (?, ?)", i, make([]byte, 4000)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := write(100); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want ENOSPC", err)
	}
	if n := count(t, db, "SELECT count(*) FROM t"); n != 1 {
		t.Fatalf("%d rows of a failed transaction", n-1)
	}
	if err := write(3); err != nil {
		t.Fatalf("after a full disk: %v", err)
	}
}

func TestShrink(t *testing.T) {
	db := openTest(t, Options{CheckpointBytes: 64 << 10})
	exec(t, db, "CREATE TABLE t (n INTEGER, b BLOB) STRICT")
	err := db.Write(ctx, func(tx *Tx) error {
		for i := range 4000 {
			if _, err := tx.Exec("INSERT INTO t VALUES (?, ?)", i, make([]byte, 4000)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	before := count(t, db, "PRAGMA page_count")
	exec(t, db, "DELETE FROM t WHERE n > 10")
	if err := db.Shrink(ctx); err != nil {
		t.Fatal(err)
	}
	if after := count(t, db, "PRAGMA page_count"); after > before/10 {
		t.Errorf("%d pages of %d are left", after, before)
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "missing", "db.sqlite"), Options{}); err == nil {
		t.Error("a missing folder gives no error")
	}
	path := filepath.Join(t.TempDir(), "db.sqlite")
	if err := os.WriteFile(path, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("this is no database, whatever it looks like")
	f.Close()
	if _, err := Open(path, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a file that is no database: %v", err)
	}
}

// TestPlansAreStable runs a join that SQLite would prepare anew for each value; to
// fetch its columns again costs the driver many allocations.
func TestPlansAreStable(t *testing.T) {
	db := openTest(t, Options{Readers: 1})
	exec(t, db, "CREATE TABLE b (id INTEGER PRIMARY KEY, x INTEGER, y INTEGER, z INTEGER) STRICT")
	exec(t, db, "CREATE TABLE a (k BLOB PRIMARY KEY, b INTEGER, p INTEGER) STRICT, WITHOUT ROWID")
	exec(t, db, "CREATE INDEX a_p ON a (k) WHERE p = 1")
	exec(t, db, "INSERT INTO b VALUES (1, 2, 3, 4)")
	exec(t, db, "INSERT INTO a VALUES (x'01', 1, 1)")
	err := db.Lookup(ctx, func(tx *Tx) error {
		var p, x, y, z int
		n := testing.AllocsPerRun(100, func() {
			err := tx.QueryRow("SELECT a.p, b.x, b.y, b.z FROM a JOIN b ON b.id = a.b WHERE a.k = ?", []byte{1}).Scan(&p, &x, &y, &z)
			if err != nil || p != 1 || z != 4 {
				t.Error(p, z, err)
			}
		})
		if n > 16 {
			t.Errorf("%v allocations for a query", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
