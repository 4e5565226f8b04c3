package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	initName = "tvixd-sandbox-init"

	reportFD = 4 // descriptors as init_linux.c knows them
	worldFD  = 6 // after that of the control pipe

	reportFailed = 1
	reportExited = 2
	reportSize   = 16
)

// Process is a builder that runs.
type Process struct {
	program *program
	process *os.Process
	report  *os.File // read side; ends with the process, or with its execve
	control *os.File // closed to kill a builder that is not isolated; nil for others
	kill    sync.Once
}

// Status is how a builder ended.
type Status struct {
	unix.WaitStatus
	User, System time.Duration // CPU time
}

// SetupError is a failure before the builder ran.
type SetupError struct {
	Step string // "bind mount '/a' to '/b'"
	Err  error  // a unix.Errno
	Exec bool   // it was the start of the builder's program that failed
}

func (e *SetupError) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *SetupError) Unwrap() error { return e.Err }

// Start runs a builder. The caller must call Wait, and does so after the end of
// the builder's output or after Kill.
func Start(c *Config) (*Process, error) {
	p, err := compile(c)
	if err != nil {
		return nil, err
	}
	if c.Isolated {
		flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
		if !c.Network {
			flags |= unix.CLONE_NEWNET
		}
		return launch(p, c.Output, flags)
	}
	control, controlW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create pipe: %w", err)
	}
	defer control.Close()
	proc, err := launch(p, c.Output, unix.CLONE_NEWPID, control, c.World.ns)
	if err != nil {
		controlW.Close()
		return nil, err
	}
	proc.control = controlW
	return proc, nil
}

// Kill ends the builder and every process that came of it. A builder that is
// about to exit keeps the status it chose. It may be called at any time and
// more than once; Wait still has to be called.
func (p *Process) Kill() {
	p.kill.Do(func() {
		if p.control != nil {
			p.control.Close()
			return
		}
		// It may be over, which is as well.
		_ = p.process.Kill()
	})
}

// Wait waits until the builder and every process that came of it is gone. The
// error is a SetupError when the builder was never run.
func (p *Process) Wait() (Status, error) {
	state, err := p.process.Wait()
	defer p.report.Close()
	p.Kill()
	if err != nil {
		return Status{}, fmt.Errorf("wait for the builder: %w", err)
	}
	st := Status{
		WaitStatus: unix.WaitStatus(state.Sys().(syscall.WaitStatus)),
		User:       state.UserTime(),
		System:     state.SystemTime(),
	}
	// Every writer is gone, so this does not block.
	var r [reportSize]byte
	switch _, err := io.ReadFull(p.report, r[:]); {
	case errors.Is(err, io.EOF):
		return st, nil
	case err != nil:
		return st, fmt.Errorf("read the report of the builder's process: %w", err)
	}
	field := func(i int) int { return int(int32(binary.NativeEndian.Uint32(r[4*i:]))) }
	switch kind, index, value := field(0), field(1), field(2); kind {
	case reportExited:
		st.WaitStatus = unix.WaitStatus(uint32(value))
		return st, nil
	case reportFailed:
		return st, &SetupError{
			Step: p.program.stepName(index),
			Err:  unix.Errno(value),
			Exec: index == len(p.program.ops)-1,
		}
	default:
		return st, fmt.Errorf("read the report of the builder's process: unknown kind %d", kind)
	}
}

// kernelAtLeast reports whether the running kernel has at least that version.
func kernelAtLeast(major, minor int) bool {
	v := kernelVersion()
	return v[0] > major || v[0] == major && v[1] >= minor
}

var kernelVersion = sync.OnceValue(func() (v [2]int) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return v
	}
	_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &v[0], &v[1])
	return v
})
