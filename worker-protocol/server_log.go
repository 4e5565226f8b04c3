package workerprotocol

import (
	"bufio"
	"bytes"
	"fmt"
	"sync"
)

// SetVerbosity sets up to which level Log sends messages; at first everything is sent.
func (c *ServerConn) SetVerbosity(v Verbosity) { c.verbosity.Store(uint32(v)) }

// Log sends a text if its level is within the verbosity. A newline is added. Safe for concurrent
// use, as are the other methods that send log messages; none of them waits long for a client that
// does not read.
func (c *ServerConn) Log(level Verbosity, text string) {
	if uint32(level) > c.verbosity.Load() {
		return
	}
	c.send(classLine, 0, progressKey{}, &LogMessage{Kind: LogNext, Text: text + "\n"})
}

// StartActivity tells that an activity begins; parent may be 0. Clients before 1.20 get its text
// as a line.
func (c *ServerConn) StartActivity(id ActivityID, level Verbosity, t ActivityType, text string, fields []Field, parent ActivityID) {
	if !c.proto.since(20) {
		if text != "" {
			c.Log(level, text+"...")
		}
		return
	}
	m := LogMessage{Kind: LogStartActivity, ID: id, Level: level, Activity: t, Text: text, Fields: fields, Parent: parent}
	c.send(classStart, id, progressKey{}, &m)
}

// StopActivity tells that an activity has ended.
func (c *ServerConn) StopActivity(id ActivityID) {
	if c.proto.since(20) {
		c.queue.stop(id, c.encode(&LogMessage{Kind: LogStopActivity, ID: id}))
	}
}

// Result tells something of a running activity. Of progress messages that the client has not read
// yet only the newest is kept.
func (c *ServerConn) Result(id ActivityID, t ResultType, fields []Field) {
	if !c.proto.since(20) {
		return
	}
	class, key := classLine, progressKey{}
	switch t {
	case ResProgress:
		class, key = classProgress, progressKey{activity: id, kind: t}
	case ResSetExpected:
		class, key = classProgress, progressKey{activity: id, kind: t}
		if len(fields) > 0 {
			key.of = fields[0].Int
		}
	}
	c.send(class, id, key, &LogMessage{Kind: LogResult, ID: id, Result: t, Fields: fields})
}

func (c *ServerConn) send(class logClass, id ActivityID, key progressKey, m *LogMessage) {
	c.queue.put(class, id, key, c.encode(m))
}

func (c *ServerConn) encode(m *LogMessage) []byte {
	return encode(c.proto, logTags[m.Kind], m.code)
}

// encoder renders one message in memory.
type encoder struct {
	buf bytes.Buffer
	w   *Writer
}

var encoders = sync.Pool{New: func() any {
	e := &encoder{}
	e.w = &Writer{dst: bufio.NewWriterSize(&e.buf, 512)}
	return e
}}

// encode renders a tag and what code writes.
func encode(p Protocol, tag uint64, code func(*coder)) []byte {
	e := encoders.Get().(*encoder)
	e.w.Uint64(tag)
	code(&coder{Protocol: p, w: e.w})
	e.w.dst.Flush() // a bytes.Buffer does not fail
	data := bytes.Clone(e.buf.Bytes())
	if e.buf.Reset(); e.buf.Cap() <= 64<<10 {
		encoders.Put(e)
	}
	return data
}

func (c *ServerConn) lostMessage(n uint64) []byte {
	text := fmt.Sprintf("warning: %d log messages were dropped because the client does not read them\n", n)
	return c.encode(&LogMessage{Kind: LogNext, Text: text})
}

// writeLog is the queue's way to the connection.
func (c *ServerConn) writeLog(batch [][]byte) error {
	for _, m := range batch {
		c.w.dst.Write(m) // kept until the flush
	}
	return c.flush()
}
