package build

import (
	"os"
	"os/exec"
	"testing"
)

// buildProbe compiles a small static program for a builder to run.
func buildProbe(t *testing.T, l *lab, source string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/probe.go", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	out := l.path("probe")
	cmd := exec.Command("go", "build", "-o", out, dir+"/probe.go")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("cannot compile the probe: %v\n%s", err, msg)
	}
	return out
}
