package build

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Error is a failure of a build, with the text that nix-daemon has for it.
type Error struct {
	Status Status
	Msg    string

	// ExitStatus is that of Failure's errors: Result.ExitStatus.
	ExitStatus uint32

	hashMismatch bool // a fixed output is not what was promised
}

func (e *Error) Error() string { return e.Msg }

// Escape sequences of Nix's messages. Clients drop them when they do not write
// to a terminal.
const (
	ansiNormal  = "\x1b[0m"
	ansiBold    = "\x1b[1m"
	ansiRed     = "\x1b[31;1m"
	ansiMagenta = "\x1b[35;1m"
)

// failf makes an Error. Arguments are set off in magenta, as Nix does it.
func failf(status Status, format string, args ...any) *Error {
	for i, a := range args {
		args[i] = ansiMagenta + fmt.Sprint(a) + ansiNormal
	}
	return &Error{Status: status, Msg: fmt.Sprintf(format, args...)}
}

// logError tells a sink of an error in the form of Nix's logger: further lines
// are indented as far as the text of the first.
func logError(sink Sink, msg string) {
	const indent = "       " // as long as "error: "
	msg = strings.ReplaceAll(strings.TrimRight(msg, " \t\n\r"), "\n", "\n"+indent)
	sink.Log(LevelError, ansiRed+"error:"+ansiNormal+" "+msg)
}

// describe says how a process ended, in Nix's words.
func describe(st unix.WaitStatus) string {
	switch {
	case st.Exited():
		return fmt.Sprintf("failed with exit code %d", st.ExitStatus())
	case st.Signaled():
		return fmt.Sprintf("failed due to signal %d (%s)", int(st.Signal()), signalName(st.Signal()))
	}
	return "died abnormally"
}

// signalName is what the C library calls a signal: Go's words, but capital.
func signalName(s syscall.Signal) string {
	switch s {
	case unix.SIGSYS:
		return "Bad system call"
	case unix.SIGABRT:
		return "Aborted"
	case unix.SIGTRAP:
		return "Trace/breakpoint trap"
	}
	return capital(s.String())
}

// errnoName is what the C library calls an error.
func errnoName(err error) string { return capital(err.Error()) }

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
