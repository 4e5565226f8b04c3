package build

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// identity tells an inode from every other one, earlier ones included.
func identity(t *testing.T, path string) [2]uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	// An inode's number may come again, its birth does not.
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &stx); err != nil {
		t.Fatal(err)
	}
	return [2]uint64{st.Ino, uint64(stx.Btime.Sec)*1e9 + uint64(stx.Btime.Nsec)}
}

// A workspace is used again, and nothing in it that a builder could touch is.
func TestFoldersAreNew(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		s := l.builder.scratch
		src, err := l.store.AddText(t.Context(), "input", []byte("x"), nil, store.AddOptions{})
		if err != nil {
			t.Fatal(err)
		}
		opts := workspaceOptions{isolated: l.set.Sandbox == SandboxOn, reuse: true, builder: owner{os.Geteuid(), 30000}}
		folders := []string{"build"}
		if opts.isolated {
			folders = append(folders, "tmp", "store")
		}
		var held []*os.File // an inode that is held is not handed out again
		seen := make(map[[2]uint64]bool)
		for range 5 {
			w, err := s.acquire(opts)
			if err != nil {
				t.Fatal(err)
			}
			if w.name != "1" {
				t.Errorf("workspace %s, not the first", w.name)
			}
			for _, name := range folders {
				id := identity(t, w.path(name))
				if seen[id] {
					t.Errorf("folder %s was there before", name)
				}
				seen[id] = true
				f, err := os.Open(w.path(name))
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, f)
				var st unix.Stat_t
				if err := unix.Stat(w.path(name), &st); err != nil {
					t.Fatal(err)
				}
				want := map[string]uint32{"build": 0o700, "tmp": 0o1777, "store": 0o1775}[name]
				if st.Mode&0o7777 != want || name != "tmp" && st.Gid != 30000 {
					t.Errorf("%s: mode %o, group %d", name, st.Mode, st.Gid)
				}
				if err := unix.Setxattr(w.path(name), "user.mark", []byte("x"), 0); err != nil && err != unix.ENOTSUP {
					t.Fatal(err)
				}
				if left, err := os.ReadDir(w.path(name)); err != nil || len(left) > 0 {
					t.Errorf("%s: %v, %v", name, left, err)
				}
			}
			if err := w.release(false); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range held {
			f.Close()
		}
		// Through whole builds, with a name to mount an input on.
		script := `touch $NIX_BUILD_TOP/x; chmod 0711 $NIX_BUILD_TOP; touch -d @1000 $NIX_BUILD_TOP; touch $out`
		for _, name := range []string{"first", "second"} {
			d := l.derive(recipe{name: name, srcs: []storepath.Path{src}, script: `
test "$(stat -c %a $NIX_BUILD_TOP)" = 700; test -z "$(ls $NIX_BUILD_TOP)"
test "$(stat -c %Y $NIX_BUILD_TOP)" -gt 1000
test "$(cat ` + l.store.Dir().Join(src) + `)" = x
` + script})
			l.mustBuild(d)
		}
		l.checkClean()
	})
}

const refusedProbe = `package main
import "syscall"
func show(what string, err syscall.Errno) {
	if err != 0 { println(what, int(err)) } else { println(what, "works") }
}
func main() {
	fd, err := syscall.Open("f", syscall.O_CREAT|syscall.O_WRONLY, 0o755)
	if err != nil { panic(err) }
	_, _, e := syscall.Syscall(425, 1, 0, 0)
	show("io_uring", e)
	_, _, e = syscall.Syscall(NRKEYCTL, 0, 0, 0)
	show("keyctl", e)
	_, _, e = syscall.Syscall(437, 0, 0, 0)
	show("openat2", e)
	_, _, e = syscall.Syscall(NRSOCKET, 40, 1, 0)
	show("vsock", e)
	var flags [8]int32
	_, _, e = syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), SETFLAGS, PTR(&flags))
	show("flags", e)
	_, err = syscall.Open("g", syscall.O_CREAT|syscall.O_WRONLY, 0o4755)
	show("open", err.(syscall.Errno))
	err = syscall.Mknod("h", syscall.S_IFREG|0o2755, 0)
	show("mknod", err.(syscall.Errno))
	_, _, e = syscall.Syscall(syscall.SYS_FCHMOD, uintptr(fd), 0o4755, 0)
	show("fchmod", e)
	d, err := syscall.Open(".", syscall.O_RDONLY|syscall.O_DIRECTORY, 0o7777)
	if err != nil || d < 0 { panic("open") }
	println("done")
}`

// What the filter refuses is refused to programs of every kind.
func TestRefusedCalls(t *testing.T) {
	for _, arch := range []struct{ goarch, keyctl, socket, flags string }{
		{"amd64", "250", "41", "0x40086602"},
		{"386", "288", "359", "0x40046602"},
	} {
		t.Run(arch.goarch, func(t *testing.T) {
			if runtime.GOARCH != "amd64" {
				t.Skip("needs an x86-64 machine")
			}
			l := newLab(t)
			t.Setenv("GOARCH", arch.goarch)
			source := strings.NewReplacer("NRKEYCTL", arch.keyctl, "NRSOCKET", arch.socket, "SETFLAGS", arch.flags,
				"PTR(&flags)", "uintptr(unsafe.Pointer(&flags))", `import "syscall"`, `import ("syscall"; "unsafe")`).Replace(refusedProbe)
			probe := buildProbe(t, l, source)
			l.set.SandboxPaths = append(l.set.SandboxPaths, SandboxPath{Target: "/bin/probe", Source: probe})
			_, sink := l.build(l.derive(recipe{name: "probe", script: `/bin/probe; touch $out`}))
			if strings.Contains(sink.output(), "xec format error") {
				t.Skip("this kernel runs no such programs")
			}
			want := "io_uring 38\nkeyctl 38\nopenat2 38\nvsock 97\nflags 25\nopen 1\nmknod 1\nfchmod 1\ndone"
			if got := strings.TrimSpace(sink.output()); got != want {
				t.Errorf("%s\nwant:\n%s", got, want)
			}
		})
	}
}

// Ordinary programs run under the filter.
func TestHostPrograms(t *testing.T) {
	l := newLab(t)
	for _, p := range []string{"/usr/bin/gcc", "/usr/bin/bash"} {
		if _, err := os.Stat(p); err != nil {
			t.Skip("needs gcc and bash: ", err)
		}
	}
	l.set.SandboxPaths = nil
	for _, p := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		l.set.SandboxPaths = append(l.set.SandboxPaths, SandboxPath{Target: p, Source: p, Optional: true})
	}
	d := l.derive(recipe{name: "hello", builder: "/usr/bin/bash", env: map[string]string{"PATH": "/usr/bin"}, script: `
cat > hello.c <<E
#include <stdio.h>
int main(void) { puts("hello"); return 0; }
E
gcc -O1 -o hello hello.c; tar cf - hello | (mkdir x && cd x && tar xf -); install -m 755 x/hello y; cp -a y z; ./z > $out`})
	if got := l.mustBuild(d); got != "hello\n" {
		t.Errorf("%q", got)
	}
}
