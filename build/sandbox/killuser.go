package sandbox

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// KillUser kills every process of a user and waits for nothing but the kill.
// It does so as that user, since then the kernel decides what is the user's.
func KillUser(u User) error {
	p := new(program)
	p.dieWithParent()
	p.confineUser(u)
	p.call("kill all processes", unix.SYS_KILL, num(-1), num(int(unix.SIGKILL))).tolerate(0, unix.ESRCH)
	p.call("exit", unix.SYS_EXIT_GROUP, num(0))

	proc, err := launch(p, nil, 0)
	if err != nil {
		return err
	}
	st, err := proc.Wait()
	if err == nil && st.WaitStatus != 0 {
		err = fmt.Errorf("helper process: wait status %#x", uint32(st.WaitStatus))
	}
	return err
}

// UserNamespaces reports whether the kernel and what is around us let an
// ordinary user with CAP_SYS_ADMIN make user namespaces.
var UserNamespaces = sync.OnceValue(func() bool {
	p := new(program)
	p.identity(&Config{Isolated: true, UserNamespace: true, User: User{Switch: true, UID: nobody, GID: nobody}})
	p.call("exit", unix.SYS_EXIT_GROUP, num(0))
	proc, err := launch(p, nil, 0)
	if err != nil {
		return false
	}
	st, err := proc.Wait()
	return err == nil && st.WaitStatus == 0
})

const nobody = 65534

// confineUser becomes a user for good.
func (p *program) confineUser(u User) {
	gid, uid := num(u.GID), num(u.UID)
	p.call("set the groups", unix.SYS_SETGROUPS, num(0), null)
	p.call("set the group", unix.SYS_SETRESGID, gid, gid, gid)
	p.call("set the user", unix.SYS_SETRESUID, uid, uid, uid)
}

// launch runs a program in a process of its own. Output may be nil.
func launch(p *program, output *os.File, cloneFlags uintptr, extra ...*os.File) (*Process, error) {
	listFD, err := p.load()
	if err != nil {
		return nil, err
	}
	list := os.NewFile(uintptr(listFD), "memfd")
	defer list.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	if output == nil {
		output = null
	}
	report, reportW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create pipe: %w", err)
	}
	defer reportW.Close()
	process, err := os.StartProcess("/proc/self/exe", []string{initName}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{}, // nothing that the dynamic linker or a runtime heeds
		Files: append([]*os.File{null, output, output, list, reportW}, extra...),
		Sys:   &syscall.SysProcAttr{Cloneflags: cloneFlags},
	})
	if err != nil {
		report.Close()
		return nil, fmt.Errorf("start the builder's process: %w", err)
	}
	return &Process{program: p, process: process, report: report}, nil
}
