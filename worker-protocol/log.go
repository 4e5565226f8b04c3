package workerprotocol

import (
	"os"
	"sync/atomic"
)

// Field is a number or a string of an activity or a result.
type Field struct {
	// IsString tells which of the two it is.
	IsString bool
	Int      uint64
	Str      string
}

// IntField is a number.
func IntField(n uint64) Field { return Field{Int: n} }

// StringField is a string.
func StringField(s string) Field { return Field{IsString: true, Str: s} }

func (f *Field) code(c *coder) {
	var kind uint64
	if f.IsString {
		kind = 1
	}
	c.uint64("field type", &kind)
	if c.reading() && kind > 1 {
		c.r.fail("field", "the type %d is not known", kind)
		return
	}
	f.IsString = kind == 1
	if f.IsString {
		c.text("string field", &f.Str)
	} else {
		c.uint64("number field", &f.Int)
	}
}

// LogKind says what a LogMessage is.
type LogKind uint8

const (
	// LogNext is a text for the user.
	LogNext LogKind = iota
	// LogStartActivity begins an activity.
	LogStartActivity
	// LogStopActivity ends one.
	LogStopActivity
	// LogResult tells something of a running activity.
	LogResult
)

// LogMessage is a message of the server while an operation runs.
type LogMessage struct {
	Kind LogKind
	// Text is the text, with its newline if it has one, or the activity's description.
	Text string
	// ID and Parent name activities; Parent 0 is none.
	ID, Parent ActivityID
	// Level is the importance of a starting activity.
	Level Verbosity
	// Activity is the type of a starting activity, Result that of a result.
	Activity ActivityType
	Result   ResultType
	Fields   []Field
}

// tags are the numbers of the kinds on the wire.
var logTags = [...]uint64{
	LogNext: stderrNext, LogStartActivity: stderrStartActivity, LogStopActivity: stderrStopActivity, LogResult: stderrResult,
}

// code moves the message without its tag.
func (m *LogMessage) code(c *coder) {
	switch m.Kind {
	case LogNext:
		c.text("log message", &m.Text)
	case LogStartActivity:
		c.uint64("activity", (*uint64)(&m.ID))
		c.level("activity level", &m.Level)
		c.uint32("activity type", (*uint32)(&m.Activity))
		c.text("activity text", &m.Text)
		list(c, "activity fields", &m.Fields, func(c *coder, f *Field) { f.code(c) })
		c.uint64("parent activity", (*uint64)(&m.Parent))
	case LogStopActivity:
		c.uint64("activity", (*uint64)(&m.ID))
	case LogResult:
		c.uint64("activity", (*uint64)(&m.ID))
		c.uint32("result type", (*uint32)(&m.Result))
		list(c, "result fields", &m.Fields, func(c *coder, f *Field) { f.code(c) })
	}
}

var lastActivity atomic.Uint64

// NewActivityID is an ID that no other activity of this process has, nor one of another process
// that makes its IDs in the same way, as Nix does: the process ID and a counter.
func NewActivityID() ActivityID {
	return ActivityID(uint64(os.Getpid())<<32 | lastActivity.Add(1)&0xffffffff)
}
