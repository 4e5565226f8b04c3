package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// World is what builders see that are not isolated: the host's files, with a
// store folder that they may write to. It is a mount namespace without a
// process, in which an overlay lies over the mount; each builder gets a copy of
// the namespace. The overlay is one for all, since making one costs a dozen
// files on the disk of its upper folder, which is more than a small build.
//
// The owner of upper may take files out of it that no builder uses any more:
// the next builder's start makes the overlay forget them.
type World struct{ ns *os.File }

// NewWorld lays an overlay over storeDir, with store below and upper above.
// Work is an empty folder on the disk of upper. Nothing of this is visible
// outside, and it is gone when the World is closed or the process ends.
func NewWorld(storeDir, store, upper, work string) (*World, error) {
	p := new(program)
	p.dieWithParent()
	p.mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=off,metacopy=off",
		escapeOverlay(store), escapeOverlay(upper), escapeOverlay(work))
	if kernelAtLeast(5, 10) {
		opts += ",volatile" // without it, unmounting syncs the whole disk
	}
	p.mount("tvixd", storeDir, "overlay", 0, opts)
	p.call("report", unix.SYS_WRITE, num(1), p.str("."), num(1))
	p.call("wait", unix.SYS_PPOLL, null, num(0), null, null) // until it is killed

	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create pipe: %w", err)
	}
	defer r.Close()
	proc, err := launch(p, w, unix.CLONE_NEWNS)
	w.Close()
	if err != nil {
		return nil, err
	}
	// It either reports or ends, and then Wait says why.
	if _, err := r.Read(make([]byte, 1)); err != nil {
		proc.Kill()
		_, err := proc.Wait()
		return nil, fmt.Errorf("prepare the builders' mount namespace: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", proc.process.Pid))
	proc.Kill()
	if _, e := proc.Wait(); err == nil && e != nil {
		ns.Close()
		err = e
	}
	if err != nil {
		return nil, fmt.Errorf("prepare the builders' mount namespace: %w", err)
	}
	return &World{ns}, nil
}

// Close takes the namespace away. No builder may run in it.
func (w *World) Close() error { return w.ns.Close() }
