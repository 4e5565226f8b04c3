package workerprotocol

import "errors"

// Error is an error as the protocol transmits it. A Client returns what the server sent as an
// *Error; a server may return an *Error to say more than a text.
type Error struct {
	// Level is sent since 1.26; the usual one is LevelError, the zero value.
	Level Verbosity
	// Msg is the text that the user sees, without "error: ".
	Msg string
	// Traces are what was being done, from the innermost to the outermost; sent since 1.26.
	Traces []string
	// Status is the exit status of a nix-build that ends with the error; sent before 1.26. The
	// zero value is sent as 1.
	Status uint32
}

// Error is the message.
func (e *Error) Error() string { return e.Msg }

// errorOf is err as an *Error: the one that it wraps, with the text of the whole, or a new one.
func errorOf(err error) *Error {
	info := &Error{Msg: err.Error()}
	var e *Error
	if errors.As(err, &e) {
		info.Level, info.Traces, info.Status = e.Level, e.Traces, e.Status
	}
	return info
}

func (e *Error) code(c *coder) {
	if !c.since(26) {
		status := max(e.Status, 1)
		c.text("error message", &e.Msg)
		c.uint32("exit status", &status)
		if c.reading() {
			e.Status = status
		}
		return
	}
	name := "Error"
	c.string("kind of error", &name)
	if c.reading() && name != "Error" {
		c.r.fail("error", "the kind %q is not known", name)
	}
	c.level("error level", &e.Level)
	c.string("name of the error", &name)
	c.text("error message", &e.Msg)
	c.noPosition()
	list(c, "error traces", &e.Traces, func(c *coder, hint *string) {
		c.noPosition()
		c.text("error trace", hint)
	})
}

// noPosition moves the flag before a source position, which no version sends.
func (c *coder) noPosition() {
	var have uint64
	if c.uint64("error position flag", &have); c.reading() && have != 0 {
		c.r.fail("error", "it has a position, which no version sends")
	}
}
