package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A daemon that is told to stop again and again while it stops, with a build
// running, stops as if it had been told once: without a mount left behind.
func TestStopRepeatedly(t *testing.T) {
	isolated(t, func(t *testing.T) {
		if underTest() == "nix" {
			t.Skip("nix-daemon has no mount")
		}
		w := started(t)
		w.write("long.nix", `(import ./lib.nix).sh "long" "echo > /e2e/ready; b sleep 765432"`)
		build := w.background(nobody, "nix-build --no-out-link $W/long.nix")
		w.eventually("the builder sleeps", func() bool { return exists(w.shared+"/ready") && running("sleep 765432") })
		w.daemon.cmd.Process.Signal(syscall.SIGTERM)
		w.daemon.cmd.Process.Signal(syscall.SIGTERM)
		for again := true; again; {
			select {
			case <-w.daemon.ended:
				again = false
			case <-time.After(time.Millisecond):
				w.daemon.cmd.Process.Signal(syscall.SIGINT)
			}
		}
		w.daemon.shutdown() // checks how it has ended
		if mounts := mountsBelow("/nix"); len(mounts) > 0 {
			t.Errorf("mounts are left: %v", mounts)
		}
		if r := build(); r.code == 0 {
			t.Errorf("the build that was cut off: %v", r)
		}
		w.eventually("the builder has ended", func() bool { return !running("sleep 765432") })
		w.start()
		w.verify()
	})
}

// What tvixd tells an ordinary user, and what clients are told when no daemon
// runs any more.
func TestMessagesToUsers(t *testing.T) {
	isolated(t, func(t *testing.T) {
		if underTest() == "nix" {
			t.Skip("these are tvixd's")
		}
		w := started(t)
		tree := w.run(root, "mkdir tree; echo > tree/file; nix-store --add tree")
		binary := os.Getenv(binaryVar)
		w.refused(nobody, binary+" stats", "to its own user only")
		w.refused(nobody, binary+" cat "+tree, "path '"+tree+"' is not a regular file")
		w.refused(nobody, binary+" ls "+tree+"/absent", "path '"+tree+"/absent' does not exist")
		w.daemon.shutdown()
		w.refused(nobody, "nix-store --verify", "Connection refused")

		w.flags = append(w.flags, "--socket-path", "/nonexist/socket")
		d := w.launch()
		select {
		case <-d.ended:
		case <-d.ready:
			t.Error("it listens in a folder that did not exist")
		case <-time.After(patience):
			t.Error("it neither runs nor ends")
		}
		d.stop.Do(func() {
			d.cmd.Process.Kill()
			<-d.ended
		})
		if exists("/nonexist") || !strings.Contains(d.messages(), "folder does not exist") {
			t.Errorf("a socket in no folder: %s", d.messages())
		}
	})
}
