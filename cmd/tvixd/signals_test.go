package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const signalledVar = "TVIXD_TEST_SIGNALLED"

// TestFurtherSignals runs itself in a process that is to survive its second signal or not.
func TestFurtherSignals(t *testing.T) {
	if patience, err := time.ParseDuration(os.Getenv(signalledVar)); err == nil {
		ctx := untilSignal(patience, unix.SIGTERM)
		mustSignalMyself(t)
		<-ctx.Done()
		mustSignalMyself(t)
		if patience == 0 { // it comes into effect a moment later
			for {
				mustSignalMyself(t)
				time.Sleep(time.Millisecond)
			}
		}
		os.Exit(7)
	}
	for patience, want := range map[string]syscall.WaitStatus{"1h": 7 << 8, "0s": syscall.WaitStatus(unix.SIGTERM)} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFurtherSignals$")
		cmd.Env = append(os.Environ(), signalledVar+"="+patience)
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got, ok := exit.Sys().(syscall.WaitStatus); !ok || got != want {
			t.Errorf("patience %s: %v, want status %#x", patience, err, want)
		}
	}
}

func mustSignalMyself(t *testing.T) {
	t.Helper()
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
}
