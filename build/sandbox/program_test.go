package sandbox

import (
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// run runs a program in a process of its own and returns what it wrote.
func runProgram(t *testing.T, p *program) (string, error) {
	t.Helper()
	p.call("exit", unix.SYS_EXIT_GROUP, num(0))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	proc, err := launch(p, w, 0)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	n, _ := r.Read(buf) // nothing at the end of file
	_, err = proc.Wait()
	return string(buf[:n]), err
}

func TestProgram(t *testing.T) {
	t.Run("registers and pointers", func(t *testing.T) {
		p := new(program)
		p.call("pipe", unix.SYS_DUP, num(1)).into(3)
		// A vector of two pieces: pointers within the data.
		text := p.str("hello")
		vec := p.bytes(make([]byte, 32))
		p.pointer(int(vec.value), text.value)
		binary.NativeEndian.PutUint64(p.data[vec.value+8:], 2)
		p.pointer(int(vec.value)+16, text.value+2)
		binary.NativeEndian.PutUint64(p.data[vec.value+24:], 3)
		p.call("write", unix.SYS_WRITEV, reg(3), vec, num(2))
		if got, err := runProgram(t, p); got != "hello" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("tolerated", func(t *testing.T) {
		p := new(program)
		p.call("close", unix.SYS_CLOSE, num(99)).tolerate(1, unix.ENOENT, unix.EBADF)
		p.call("write", unix.SYS_WRITE, num(1), p.str("skipped"), num(7))
		p.call("close", unix.SYS_CLOSE, num(99)).tolerate(0)
		p.call("write", unix.SYS_WRITE, num(1), p.str("written"), num(7))
		if got, err := runProgram(t, p); got != "written" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("fails", func(t *testing.T) {
		p := new(program)
		p.call("close what is not open", unix.SYS_CLOSE, num(99)).tolerate(0, unix.ENOENT)
		_, err := runProgram(t, p)
		if err == nil || err.Error() != "close what is not open: bad file descriptor" {
			t.Error(err)
		}
	})
}

// What is no program ends the process and does nothing else.
func TestBadPrograms(t *testing.T) {
	good := new(program)
	good.call("exit", unix.SYS_EXIT_GROUP, num(0))
	good.str("data")
	for name, change := range map[string]func([]byte) []byte{
		"empty":       func(b []byte) []byte { return nil },
		"magic":       func(b []byte) []byte { b[0]++; return b },
		"short":       func(b []byte) []byte { return b[:len(b)-1] },
		"many calls":  func(b []byte) []byte { binary.NativeEndian.PutUint64(b[16:], 1<<60); return b },
		"calls far":   func(b []byte) []byte { binary.NativeEndian.PutUint64(b[24:], 1<<62); return b },
		"many relocs": func(b []byte) []byte { binary.NativeEndian.PutUint64(b[32:], 1<<61); return b },
		"relocs far":  func(b []byte) []byte { binary.NativeEndian.PutUint64(b[40:], ^uint64(7)); return b },
	} {
		t.Run(name, func(t *testing.T) {
			fd, err := unix.MemfdCreate("bad", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			list := os.NewFile(uintptr(fd), "bad")
			defer list.Close()
			if _, err := list.Write(change(good.encode())); err != nil {
				t.Fatal(err)
			}
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			proc, err := os.StartProcess("/proc/self/exe", []string{initName},
				&os.ProcAttr{Env: []string{}, Files: []*os.File{null, null, null, list, null}})
			if err != nil {
				t.Fatal(err)
			}
			if st, err := proc.Wait(); err != nil || st.ExitCode() != 127 {
				t.Errorf("%v, %v", st, err)
			}
		})
	}
}
