package build

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/dsnet/compress/bzip2"
	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/storepath"
)

const (
	// maxLogLine is the longest line; longer ones are cut in pieces.
	maxLogLine = 64 << 10
	// logHeld is how much of a log is held back before its file is opened. Most
	// builds say less, and are compressed in one go.
	logHeld = 64 << 10
)

// buildLog takes a builder's output apart.
type buildLog struct {
	sink     Sink
	act      uint64
	size     uint64
	maxSize  uint64
	tailSize int

	line []byte // what is there of the current one
	pos  int    // where in it the next byte goes: a carriage return goes back
	tail []string

	acts map[uint64]uint64 // activities that the builder began
	file *logFile
}

// write takes some output. It returns false when there is too much of it.
func (l *buildLog) write(data []byte) bool {
	l.size += uint64(len(data))
	if l.maxSize > 0 && l.size > l.maxSize {
		return false
	}
	l.file.write(data)
	for len(data) > 0 {
		i := bytes.IndexAny(data, "\r\n")
		if i < 0 {
			l.put(data)
			return true
		}
		l.put(data[:i])
		if data[i] == '\n' {
			l.flush()
		} else {
			l.pos = 0
		}
		data = data[i+1:]
	}
	return true
}

// put writes into the current line.
func (l *buildLog) put(data []byte) {
	for len(data) > 0 {
		n := min(len(data), maxLogLine-l.pos)
		over := copy(l.line[l.pos:], data[:n])
		l.line = append(l.line, data[over:n]...)
		l.pos += n
		if data = data[n:]; l.pos == maxLogLine {
			l.flush()
		}
	}
}

// flush ends the current line.
func (l *buildLog) flush() {
	line := string(l.line)
	l.line, l.pos = l.line[:0], 0
	if msg, ok := strings.CutPrefix(line, "@nix "); ok && l.structured(msg) {
		return
	}
	l.tail = append(l.tail, line)
	if len(l.tail) > l.tailSize {
		l.tail = l.tail[1:]
	}
	l.sink.Result(l.act, ResBuildLogLine, []any{line})
}

// end flushes a last line without an end, and stops what the builder began.
func (l *buildLog) end() {
	if len(l.line) > 0 {
		l.flush()
	}
	for _, id := range l.acts {
		l.sink.StopActivity(id)
	}
	l.acts = nil
}

// message is a structured line.
type message struct {
	Action string
	ID     uint64
	Level  int
	Type   uint64
	Text   string
	Fields []any
	Phase  string
	Msg    string
}

// structured handles a structured line, and reports whether it was one.
func (l *buildLog) structured(text string) bool {
	var m message
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		logError(l.sink, fmt.Sprintf("bad JSON log message from builder: %s", err))
		return false
	}
	fields, ok := logFields(m.Fields)
	if !ok {
		logError(l.sink, "bad JSON log message from builder: unsupported JSON type")
		return false
	}
	switch m.Action {
	case "start":
		// Other kinds might make the client believe what only we may say.
		if m.Type != ActFileTransfer || l.acts[m.ID] != 0 {
			break
		}
		if l.acts == nil {
			l.acts = make(map[uint64]uint64)
		}
		if len(l.acts) < maxBuilderActivities {
			l.acts[m.ID] = l.sink.StartActivity(m.Level, m.Type, m.Text, fields, l.act)
		}
	case "stop":
		if id, ok := l.acts[m.ID]; ok {
			l.sink.StopActivity(id)
			delete(l.acts, m.ID)
		}
	case "result":
		if id, ok := l.acts[m.ID]; ok {
			l.sink.Result(id, m.Type, fields)
		}
	case "setPhase":
		l.sink.Result(l.act, ResSetPhase, []any{m.Phase})
	case "msg":
		l.sink.Log(m.Level, m.Msg)
	}
	return true
}

// maxBuilderActivities is how many activities a builder may have at once.
const maxBuilderActivities = 1000

// logFields turns JSON values into fields: strings and numbers that are not
// negative.
func logFields(values []any) ([]any, bool) {
	fields := make([]any, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case string:
			fields[i] = v
		case json.Number:
			var n uint64
			if _, err := fmt.Sscanf(string(v), "%d", &n); err != nil {
				return nil, false
			}
			fields[i] = n
		default:
			return nil, false
		}
	}
	return fields, true
}

// logFile is the stored log. It is written when the build ends, or when there
// is more of it than one cares to hold. Errors are kept for close: a log is not
// worth a build.
type logFile struct {
	path string // "" when logs are not kept
	temp string // its name while it is written
	bz2  bool
	held []byte
	file *os.File
	comp *bzip2.Writer
	err  error
}

// AddLog stores a log that was made elsewhere, in place of any other.
func (b *Builder) AddLog(ctx context.Context, drvPath storepath.Path, r io.Reader, s Settings) error {
	s.KeepLog = true
	l := newLogFile(b.logDir, drvPath, &s)
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		l.write(buf[:n])
		if err == nil {
			err = ctx.Err()
		}
		if err == io.EOF {
			return l.close()
		}
		if err != nil {
			l.abort()
			return fmt.Errorf("read build log: %w", err)
		}
	}
}

// newLogFile is the log of a derivation below dir.
func newLogFile(dir string, drvPath storepath.Path, s *Settings) *logFile {
	l := &logFile{bz2: s.CompressLog}
	if s.KeepLog {
		base := drvPath.Base()
		l.path = filepath.Join(dir, "drvs", base[:2], base[2:])
		if l.bz2 {
			l.path += ".bz2"
		}
	}
	return l
}

func (l *logFile) write(data []byte) {
	if l.path == "" || l.err != nil {
		return
	}
	if l.file == nil {
		l.held = append(l.held, data...)
		if len(l.held) < logHeld {
			return
		}
		if l.open(bzip2.BestCompression); l.err != nil {
			return
		}
		data, l.held = l.held, nil
	}
	if l.comp != nil {
		_, l.err = l.comp.Write(data)
	} else {
		_, l.err = l.file.Write(data)
	}
}

// logFiles numbers the files that are being written.
var logFiles atomic.Uint64

// open opens a file beside the one that it will replace.
func (l *logFile) open(level int) {
	l.temp = l.path + ".tmp-" + strconv.FormatUint(logFiles.Add(1), 10)
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC | unix.O_NOFOLLOW
	l.file, l.err = os.OpenFile(l.temp, flags, 0o644)
	if os.IsNotExist(l.err) {
		if l.err = os.MkdirAll(filepath.Dir(l.path), 0o755); l.err != nil {
			return
		}
		l.file, l.err = os.OpenFile(l.temp, flags, 0o644)
	}
	if l.err == nil && l.bz2 {
		// A small block is much cheaper to set up.
		l.comp, l.err = bzip2.NewWriter(l.file, &bzip2.WriterConfig{Level: level})
	}
}

// emptyBzip2 is nothing, compressed.
var emptyBzip2 = []byte("BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00")

// close finishes the file and puts it in its place.
func (l *logFile) close() error {
	if l.path == "" {
		return nil
	}
	if l.file == nil && l.err == nil {
		if len(l.held) == 0 && l.bz2 {
			l.bz2, l.held = false, emptyBzip2
		}
		if l.open(bzip2.BestSpeed); l.err == nil {
			if l.comp != nil {
				_, l.err = l.comp.Write(l.held)
			} else {
				_, l.err = l.file.Write(l.held)
			}
		}
	}
	if l.comp != nil && l.err == nil {
		l.err = l.comp.Close()
	}
	if l.file != nil {
		if err := l.file.Close(); l.err == nil {
			l.err = err
		}
		if l.err == nil {
			l.err = os.Rename(l.temp, l.path)
		}
		if l.err != nil {
			os.Remove(l.temp)
		}
	}
	if l.err != nil {
		return fmt.Errorf("write build log '%s': %w", l.path, l.err)
	}
	return nil
}

// abort drops what was written.
func (l *logFile) abort() {
	if l.file != nil {
		l.file.Close()
		os.Remove(l.temp)
	}
}
