package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// This file speaks the worker protocol in a second, separate way: what the
// daemon's own package gets wrong on both sides would not be seen otherwise,
// and some requests here are wrong on purpose.

const (
	opIsValidPath        = 1
	opBuildPaths         = 9
	opAddTempRoot        = 11
	opAddIndirectRoot    = 12
	opFindRoots          = 14
	opSetOptions         = 19
	opCollectGarbage     = 20
	opQueryAllValidPaths = 23
	opQueryPathInfo      = 26
	opVerifyStore        = 35
	opAddSignatures      = 37
	opNarFromPath        = 38
	opAddToStoreNar      = 39
	opAddMultiple        = 44

	stderrLast  = 0x616c7473
	stderrError = 0x63787470
	stderrNext  = 0x6f6c6d67
	stderrStart = 0x53545254
	stderrStop  = 0x53544f50
	stderrDone  = 0x52534c54

	wireVersion = 1<<8 | 34
)

// conn is a client's connection. What cannot be read from it ends the test,
// unless the daemon may vanish: then it is what reply returns.
type conn struct {
	t *testing.T
	r *bufio.Reader
	w io.WriteCloser

	mayVanish bool
	err       error // the first error of reading, if mayVanish
}

// field is an encoded part of a request.
type field []byte

func u64(v uint64) field { return binary.LittleEndian.AppendUint64(nil, v) }

func str(s string) field {
	b := append(u64(uint64(len(s))), s...)
	return append(b, make([]byte, (8-len(s)%8)%8)...)
}

func strs(list ...string) field {
	b := u64(uint64(len(list)))
	for _, s := range list {
		b = append(b, str(s)...)
	}
	return b
}

// dial connects as u and shakes hands.
func (w *world) dial(u user) *conn {
	w.t.Helper()
	c := w.connect(u)
	must(w.t, c.shake(wireVersion))
	return c
}

// tryDial is dial to a daemon that may vanish at any time.
func (w *world) tryDial(u user) (*conn, error) {
	fd, err := connectAs(u)
	if err != nil {
		return nil, err
	}
	c := newConn(w.t, fd)
	c.mayVanish = true
	return c, c.shake(wireVersion)
}

// connect connects as u, and says nothing yet.
func (w *world) connect(u user) *conn {
	w.t.Helper()
	fd, err := connectAs(u)
	must(w.t, err)
	return newConn(w.t, fd)
}

// connectAs returns a connected socket. The kernel tells the daemon the
// identity of the thread that connects; so for that moment it is u's.
func connectAs(u user) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = errors.Join(setThreadUser(u), unix.Connect(fd, &unix.SockaddrUnix{Name: socketPath}), setThreadUser(root))
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// setThreadUser changes the effective user of this thread alone.
func setThreadUser(u user) error {
	const keep = ^uintptr(0)
	set := func(call, id uintptr) error {
		if _, _, errno := unix.RawSyscall(call, keep, id, keep); errno != 0 {
			return errno
		}
		return nil
	}
	if u.uid != 0 {
		return errors.Join(set(unix.SYS_SETRESGID, uintptr(u.gid)), set(unix.SYS_SETRESUID, uintptr(u.uid)))
	}
	return errors.Join(set(unix.SYS_SETRESUID, 0), set(unix.SYS_SETRESGID, 0))
}

func (c *conn) close() { c.w.Close() }

// shake does the handshake as a client of this version.
func (c *conn) shake(version uint64) error {
	c.send(u64(0x6e697863), u64(version))
	magic, err := c.tryU64()
	if err == nil && magic != 0x6478696f {
		err = fmt.Errorf("its hello is %x", magic)
	}
	if err == nil {
		_, err = c.tryU64() // its protocol version
	}
	if err != nil {
		return fmt.Errorf("shake hands with the daemon: %w", err)
	}
	c.send(u64(0), u64(0)) // no CPU affinity, no reserved space
	if version >= 1<<8|33 {
		c.str() // the daemon's own version
	}
	if version >= 1<<8|35 {
		c.u64() // whether we are trusted
	}
	return c.reply()
}

func (c *conn) send(fields ...field) {
	// A daemon that refuses may close while we still write; what it said is
	// read afterwards.
	c.w.Write(slices.Concat(fields...))
}

// op sends an operation.
func (c *conn) op(op uint64, fields ...field) {
	c.send(append([]field{u64(op)}, fields...)...)
}

// ask is op and its reply.
func (c *conn) ask(op uint64, fields ...field) error {
	c.op(op, fields...)
	return c.reply()
}

// call is op for one that must succeed; its answer is still to be read.
func (c *conn) call(op uint64, fields ...field) {
	c.t.Helper()
	c.op(op, fields...)
	if err := c.reply(); err != nil {
		c.failed(fmt.Errorf("operation %d: %w", op, err))
	}
}

// refused is op for one that must fail, with one of words in its message.
func (c *conn) refused(op uint64, words []string, fields ...field) {
	c.t.Helper()
	c.op(op, fields...)
	c.refusal(words...)
}

func (c *conn) refusal(words ...string) {
	c.t.Helper()
	err := c.reply()
	var said daemonError
	if !errors.As(err, &said) {
		c.t.Fatalf("the answer is %v, wanted an error with one of %q", err, words)
	}
	if !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(string(said), w) }) {
		c.t.Errorf("the error is %q, wanted one with one of %q", said, words)
	}
}

// daemonError is an error that the daemon told properly.
type daemonError string

func (e daemonError) Error() string { return "the daemon says: " + string(e) }

// reply reads the log messages of an operation up to its end.
func (c *conn) reply() error {
	for c.err == nil {
		kind, err := c.tryU64()
		if err != nil {
			return err
		}
		switch kind {
		case stderrLast:
			return nil
		case stderrNext:
			c.str()
		case stderrStart:
			c.u64()
			c.u64()
			c.u64()
			c.str()
			c.fields()
			c.u64()
		case stderrStop:
			c.u64()
		case stderrDone:
			c.u64()
			c.u64()
			c.fields()
		case stderrError:
			c.str()
			c.u64()
			c.str()
			message := c.str()
			c.u64()
			for n := c.u64(); n > 0; n-- {
				c.u64()
				c.str()
			}
			if c.err != nil {
				return c.err
			}
			return daemonError(message)
		default:
			return fmt.Errorf("unknown message %x", kind)
		}
	}
	return c.err
}

func (c *conn) fields() {
	for n := c.u64(); n > 0; n-- {
		if c.u64() == 0 {
			c.u64()
		} else {
			c.str()
		}
	}
}

func (c *conn) tryU64() (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return 0, fmt.Errorf("read from the daemon: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// failed deals with an error of reading.
func (c *conn) failed(err error) {
	c.t.Helper()
	if !c.mayVanish {
		c.t.Fatal(err)
	}
	if c.err == nil {
		c.err = err
	}
}

func (c *conn) u64() uint64 {
	c.t.Helper()
	v, err := c.tryU64()
	if err != nil {
		c.failed(err)
	}
	return v
}

func (c *conn) str() string {
	c.t.Helper()
	n := c.u64()
	if n > 64<<20 {
		c.failed(fmt.Errorf("the daemon sends a string of %d bytes", n))
		return ""
	}
	b := make([]byte, (n+7)/8*8)
	if _, err := io.ReadFull(c.r, b); err != nil {
		c.failed(err)
	}
	return string(b[:n])
}

func (c *conn) strs() []string {
	c.t.Helper()
	list := make([]string, 0)
	for n := c.u64(); n > 0; n-- {
		list = append(list, c.str())
	}
	return list
}

// closed waits until the daemon closes the connection.
func (c *conn) closed() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.r); err != nil && !errors.Is(err, unix.ECONNRESET) {
		c.t.Errorf("the daemon does not close the connection: %v", err)
	}
}

func newConn(t *testing.T, fd int) *conn {
	t.Helper()
	nc := fileConn(t, fd)
	nc.SetDeadline(time.Now().Add(patience))
	c := &conn{t: t, r: bufio.NewReader(nc), w: nc}
	t.Cleanup(c.close)
	return c
}

// object is a store object that can be added.
type object struct {
	path  string // full
	nar   []byte
	refs  []string
	sigs  []string
	ca    string
	size  uint64 // the claimed one
	nhash string // the claimed one, base16
}

// source makes an object whose path follows from its NAR, so that anybody may
// add it.
func source(name string, nar []byte) object {
	sum := sha256.Sum256(nar)
	return object{
		path: sourcePath(name, nar), nar: nar, size: uint64(len(nar)), nhash: hex.EncodeToString(sum[:]),
		ca: "fixed:r:sha256:" + nix32(sum[:]),
	}
}

// bare makes an object with a given path: one that only the trusted may add.
func bare(path string, nar []byte, refs ...string) object {
	sum := sha256.Sum256(nar)
	return object{path: path, nar: nar, refs: refs, size: uint64(len(nar)), nhash: hex.EncodeToString(sum[:])}
}

// info is an object's metadata as AddToStoreNar takes it.
func (o object) info() field {
	return slices.Concat(str(o.path), str(""), str(o.nhash), strs(o.refs...), u64(0), u64(o.size), u64(0),
		strs(o.sigs...), str(o.ca))
}

// request is o's metadata followed by repair and dontCheckSigs.
func (o object) request(dontCheckSigs bool) field {
	check := u64(0)
	if dontCheckSigs {
		check = u64(1)
	}
	return slices.Concat(o.info(), u64(0), check)
}

// framed cuts b into frames.
func framed(b []byte) field {
	var f field
	for len(b) > 0 {
		n := min(len(b), 32<<10)
		f = append(append(f, u64(uint64(n))...), b[:n]...)
		b = b[n:]
	}
	return append(f, u64(0)...)
}

// add adds o, which must succeed.
func (c *conn) add(o object) {
	c.t.Helper()
	c.call(opAddToStoreNar, o.request(true), framed(o.nar))
}

func (c *conn) valid(path string) bool {
	c.t.Helper()
	c.call(opIsValidPath, str(path))
	return c.u64() != 0
}

// narHash asks for the NAR of a valid path and returns its hash, base16.
func (c *conn) narHash(path string, size uint64) string {
	c.t.Helper()
	c.call(opNarFromPath, str(path))
	sum := sha256.New()
	if _, err := io.CopyN(sum, c.r, int64(size)); err != nil {
		c.failed(fmt.Errorf("read the NAR of %s: %w", path, err))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// query asks for the NAR's hash and size of a path; ok is false if it is not
// valid.
func (c *conn) query(path string) (hash string, size uint64, ok bool) {
	c.t.Helper()
	c.call(opQueryPathInfo, str(path))
	if c.u64() == 0 {
		return "", 0, false
	}
	c.str() // deriver
	hash = c.str()
	c.strs() // references
	c.u64()  // registration time
	size = c.u64()
	c.u64()  // ultimate
	c.strs() // signatures
	c.str()  // content address
	return hash, size, true
}

// collect runs a collection and returns the paths that it names.
func (c *conn) collect(action uint64, paths ...string) ([]string, error) {
	c.t.Helper()
	c.op(opCollectGarbage, u64(action), strs(paths...), u64(0), u64(1<<63), u64(0), u64(0), u64(0))
	if err := c.reply(); err != nil {
		return nil, err
	}
	gone := c.strs()
	c.u64() // bytes freed
	c.u64()
	return gone, nil
}

// fileNAR is the NAR of a plain file.
func fileNAR(contents []byte) []byte {
	var b bytes.Buffer
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		b.Write(str(s))
	}
	b.Write(str(string(contents)))
	b.Write(str(")"))
	return b.Bytes()
}

// narOf is a NAR of these tokens.
func narOf(tokens ...string) []byte {
	b := str("nix-archive-1")
	for _, s := range tokens {
		b = append(b, str(s)...)
	}
	return b
}
