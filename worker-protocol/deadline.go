package workerprotocol

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// deadlineWriter gives up on a peer that takes no byte for the timeout. A write that took
// something goes on.
type deadlineWriter struct {
	rw      io.Writer
	timeout time.Duration
}

func (d *deadlineWriter) Write(p []byte) (int, error) {
	conn, ok := d.rw.(net.Conn)
	if !ok || d.timeout <= 0 {
		return d.rw.Write(p)
	}
	total := 0
	for {
		if err := conn.SetWriteDeadline(time.Now().Add(d.timeout)); err != nil {
			return total, err
		}
		n, err := conn.Write(p[total:])
		total += n
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return total, err
		}
	}
}
