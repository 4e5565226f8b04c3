package nixconf

import (
	"os"
	"path"
	"runtime"
	"strconv"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/unix"
)

// DefaultConfDir is where nix.conf lies unless NIX_CONF_DIR says otherwise.
const DefaultConfDir = "/etc/nix"

// A Host is what the defaults of some settings depend on.
type Host struct {
	ConfDir         string
	Processors      uint64
	Root            bool // the daemon runs as root
	System          string
	ExtraPlatforms  []string // sorted
	SystemFeatures  []string // sorted
	BuildUsersGroup string
	SandboxPaths    []SandboxPath
	SSLCertFile     string
}

// ThisHost looks at the machine and the environment of this process.
func ThisHost() Host {
	h := Host{
		ConfDir:        DefaultConfDir,
		Processors:     uint64(runtime.NumCPU()),
		Root:           os.Geteuid() == 0,
		System:         system(),
		ExtraPlatforms: extraPlatforms(),
		SystemFeatures: []string{"benchmark", "big-parallel", "nixos-test", "uid-range"},
		SSLCertFile:    certificates(),
	}
	if dir := os.Getenv("NIX_CONF_DIR"); dir != "" {
		h.ConfDir = path.Clean(dir)
	}
	if h.Root {
		h.BuildUsersGroup = "nixbld"
	}
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil {
		h.SystemFeatures = sortedSet(append(h.SystemFeatures, "kvm"))
	}
	return h
}

func system() string {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "riscv64": "riscv64"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	return arch + "-linux"
}

func extraPlatforms() []string {
	if runtime.GOARCH != "amd64" {
		return nil
	}
	platforms := []string{"i686-linux"}
	for level := 1; level <= cpuid.CPU.X64Level(); level++ {
		platforms = append(platforms, "x86_64-v"+strconv.Itoa(level)+"-linux")
	}
	return platforms
}

func certificates() string {
	for _, name := range []string{"NIX_SSL_CERT_FILE", "SSL_CERT_FILE"} {
		if file := os.Getenv(name); file != "" {
			return file
		}
	}
	// Nix looks into its default profile next, which lies in the store that the daemon is
	// about to serve: not a file to depend on at start.
	const debian = "/etc/ssl/certs/ca-certificates.crt"
	if _, err := os.Stat(debian); err == nil {
		return debian
	}
	return ""
}
