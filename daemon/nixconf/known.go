package nixconf

// clientOnly are settings of Nix, of any version from 2.8 on, that concern evaluators, shells
// and remote stores. A daemon accepts and ignores them.
var clientOnly = makeNames(
	// evaluation
	"abort-on-warn", "allow-import-from-derivation", "allow-unsafe-native-code-during-evaluation", "allowed-uris",
	"debugger-on-trace", "debugger-on-warn", "eval-attrset-update-layer-rhs-threshold", "eval-cache", "eval-cores",
	"eval-profile-file", "eval-profiler", "eval-profiler-frequency", "eval-system", "ignore-try",
	"lint-absolute-path-literals", "lint-short-path-literals", "lint-url-literals", "max-call-depth", "nix-path",
	"pure-eval", "restrict-eval", "trace-function-calls", "trace-import-from-derivation", "trace-verbose",
	"warn-short-path-literals",
	// fetchers and flakes
	"accept-flake-config", "access-tokens", "allow-dirty", "allow-dirty-locks", "commit-lock-file-summary",
	"commit-lockfile-summary", "flake-registry", "tarball-ttl", "trust-tarballs-from-git-forges", "use-registries",
	"warn-dirty",
	// commands
	"bash-prompt", "bash-prompt-prefix", "bash-prompt-suffix", "env-keep-derivations", "keep-env-derivations",
	"nix-shell-always-looks-for-shell-nix", "nix-shell-shebang-arguments-relative-to-script", "print-missing",
	"upgrade-nix-store-path-url", "use-xdg-base-directories",
	// the store that a client opens, and what no daemon does any more
	"build-repeat", "darwin-log-sandbox-violations", "enforce-determinism", "repeat", "store", "use-case-hack",
)

func makeNames(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
