package sqldb

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
	"testing/fstest"
)

func benchDB(b *testing.B, rows int) *DB {
	db := openTest(b, Options{ReserveBytes: -1})
	ctx := context.Background()
	err := db.Migrate(ctx, "bench", fstest.MapFS{"1.sql": {Data: []byte(
		"CREATE TABLE t (k BLOB PRIMARY KEY, a INTEGER, b INTEGER, c INTEGER) STRICT, WITHOUT ROWID")}})
	if err != nil {
		b.Fatal(err)
	}
	insert(b, db, 0, rows)
	return db
}

func key(i int) [32]byte {
	return sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i)))
}

func insert(b *testing.B, db *DB, from, n int) {
	err := db.Write(context.Background(), func(tx *Tx) error {
		for i := range n {
			k := key(from + i)
			if _, err := tx.Exec("INSERT INTO t VALUES (?, ?, ?, ?)", k[:], i, i, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkInsert reports the time of one row in a transaction of 10,000.
func BenchmarkInsert(b *testing.B) {
	db := benchDB(b, 10_000)
	b.ResetTimer()
	for n := 0; n < b.N; n += 10_000 {
		insert(b, db, 10_000+n, min(10_000, b.N-n))
	}
}

func BenchmarkLookup(b *testing.B) {
	db := benchDB(b, 100_000)
	for _, hit := range []bool{true, false} {
		name := "hit"
		if !hit {
			name = "miss"
		}
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					k := key(i * 7919 % 100_000)
					if !hit {
						k[0]++
					}
					err := db.Lookup(context.Background(), func(tx *Tx) error {
						var x, y, z int64
						return tx.QueryRow("SELECT a, b, c FROM t WHERE k = ?", k[:]).Scan(&x, &y, &z)
					})
					if err != nil && !errors.Is(err, ErrNoRows) {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkScan reports the time of one row of a long result.
func BenchmarkScan(b *testing.B) {
	const rows = 100_000
	db := benchDB(b, rows)
	b.ResetTimer()
	for n := 0; n < b.N; n += rows {
		err := db.Read(context.Background(), func(tx *Tx) error {
			r := tx.Query("SELECT k, a, b, c FROM t")
			defer r.Close()
			var k [32]byte
			var x, y, z int64
			for r.Next() {
				if err := r.Scan(k[:], &x, &y, &z); err != nil {
					return err
				}
			}
			return r.Err()
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite measures small transactions from many goroutines.
func BenchmarkWrite(b *testing.B) {
	db := benchDB(b, 0)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			k := key(i)
			err := db.Write(context.Background(), func(tx *Tx) error {
				_, err := tx.Exec("INSERT OR REPLACE INTO t VALUES (?, ?, ?, ?)", k[:], i, i, i)
				return err
			})
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
}
