package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// daemon is a running daemon process.
type daemon struct {
	w   *world
	cmd *exec.Cmd
	log string // a file

	ready chan string   // the line that tvixd prints when it is ready
	ended chan struct{} // closed when the process has ended
	err   error         // of Wait, once ended is closed
	stop  sync.Once
}

// start starts the daemon and waits until it is ready. It ends with the test.
func (w *world) start() {
	w.t.Helper()
	w.daemon = w.launch()
	w.daemon.waitReady()
}

// launch starts a daemon and does not wait.
func (w *world) launch() *daemon {
	w.t.Helper()
	return w.launchWith(func(*exec.Cmd) {})
}

// launchWith starts a daemon whose command was changed by adapt.
func (w *world) launchWith(adapt func(*exec.Cmd)) *daemon {
	w.t.Helper()
	cmd := exec.Command(os.Getenv(binaryVar), append([]string{"daemon", "--data-dir", w.data}, w.flags...)...)
	if underTest() == "nix" {
		cmd = exec.Command("nix-daemon", w.flags...)
	}
	// The daemon sees root's environment, but opens the store itself, and its
	// temporary folder is one that build users may enter.
	cmd.Env = append(slices.DeleteFunc(w.env(root), func(v string) bool { return strings.HasPrefix(v, "NIX_REMOTE=") }),
		"TMPDIR="+filepath.Join(w.dir, "tmp"))
	cmd.Dir = "/"
	adapt(cmd)

	log, err := os.CreateTemp(w.dir, "daemon-*.log")
	must(w.t, err)
	defer log.Close()
	d := &daemon{w: w, cmd: cmd, log: log.Name(), ready: make(chan string, 1), ended: make(chan struct{})}
	cmd.Stderr = log
	// A pipe of our own, since nix-daemon's children keep it open beyond its end.
	stdout, theirs, err := os.Pipe()
	must(w.t, err)
	cmd.Stdout = theirs
	err = cmd.Start()
	theirs.Close()
	must(w.t, err)
	go func() {
		defer stdout.Close()
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			select {
			case d.ready <- lines.Text():
			default:
			}
		}
	}()
	go func() {
		d.err = cmd.Wait()
		close(d.ended)
	}()
	w.t.Cleanup(func() { d.shutdown() })
	return d
}

// waitReady waits until clients are served.
func (d *daemon) waitReady() {
	d.w.t.Helper()
	if underTest() == "nix" {
		d.w.eventually("nix-daemon listens", func() bool {
			select {
			case <-d.ended:
				d.w.t.Fatalf("nix-daemon ended at once: %v\n%s", d.err, d.messages())
			default:
			}
			c, err := net.Dial("unix", socketPath)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		return
	}
	select {
	case <-d.ready:
	case <-d.ended:
		d.w.t.Fatalf("the daemon ended at once: %v\n%s", d.err, d.messages())
	case <-time.After(patience):
		d.w.t.Fatalf("the daemon did not get ready\n%s", d.messages())
	}
}

func (d *daemon) messages() string {
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// shutdown asks the daemon to end, as the system does. Further calls do
// nothing, nor does it for one that was killed.
func (d *daemon) shutdown() {
	d.stop.Do(func() {
		d.w.t.Helper()
		d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.ended:
		case <-time.After(patience):
			d.w.t.Errorf("the daemon did not stop when asked to")
			d.cmd.Process.Signal(syscall.SIGQUIT) // for the goroutines in its log
			time.Sleep(time.Second)
			d.cmd.Process.Kill()
			<-d.ended
		}
		if underTest() == "tvixd" && d.err != nil {
			d.w.t.Errorf("the daemon ended badly: %v", d.err)
		}
		if d.w.t.Failed() {
			d.w.t.Logf("the daemon's messages:\n%s", d.messages())
		}
	})
}

// kill ends the daemon as a crash does.
func (d *daemon) kill() {
	d.stop.Do(func() {
		d.cmd.Process.Kill()
		<-d.ended
	})
}

// checkNothingLeft checks that no process and no mount is left when all daemons
// were stopped.
func (w *world) checkNothingLeft() {
	var left []string
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		left = append(mountsBelow("/nix"), mountsBelow(w.data)...)
		for _, p := range processes() {
			left = append(left, p.String())
		}
		if files, _ := os.ReadDir(filepath.Join(w.dir, "tmp")); len(files) > 0 {
			left = append(left, fmt.Sprintf("files in the temporary folder: %v", files))
		}
		if len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	for _, what := range left {
		w.t.Errorf("left behind: %s", what)
	}
}

// mountsBelow lists what is mounted in dir, dir itself not included.
func mountsBelow(dir string) []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var mounts []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, "mount "+fields[4])
		}
	}
	return mounts
}

// process is a process of this test's namespace.
type process struct {
	pid, ppid int
	command   string
}

func (p process) String() string { return fmt.Sprintf("process %d: %s", p.pid, p.command) }

// processes lists those that have not ended, this one not included.
func processes() []process {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var list []process
	for _, stat := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		text, err := os.ReadFile(stat)
		_, after, ok := strings.Cut(string(text), ") ")
		fields := strings.Fields(after)
		if err != nil || !ok || pid == os.Getpid() || fields[0] == "Z" || fields[0] == "X" {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
		ppid, _ := strconv.Atoi(fields[1])
		list = append(list, process{pid, ppid, strings.ReplaceAll(string(command), "\x00", " ")})
	}
	return list
}

// running tells whether a process has mark in its command line.
func running(mark string) bool {
	return slices.ContainsFunc(processes(), func(p process) bool { return strings.Contains(p.command, mark) })
}

func (p process) pidString() string { return strconv.Itoa(p.pid) }

// peakMemory is the largest resident size of the daemon so far, in KiB.
func (d *daemon) peakMemory() int {
	d.w.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	must(d.w.t, err)
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(after)[0])
	must(d.w.t, err)
	return n
}
