package nixconf

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// A setting is one line of the table: how to find, read and print a field of Settings.
type setting struct {
	name       string
	aliases    []string
	feature    string // the experimental feature that it needs, if any
	meaning    string
	appendable bool
	reset      func(*Settings)
	assign     func(s *Settings, text string, add bool) error
	print      func(*Settings) string
	value      func(*Settings) any
}

func (c codec[T]) at(name string, def T, field func(*Settings) *T, meaning string, aliases ...string) setting {
	return setting{
		name:       name,
		aliases:    aliases,
		meaning:    meaning,
		appendable: c.join != nil,
		reset:      func(s *Settings) { *field(s) = def },
		assign: func(s *Settings, text string, add bool) error {
			v, err := c.parse(name, text)
			if err != nil {
				return err
			}
			if add {
				v = c.join(*field(s), v)
			}
			*field(s) = v
			return nil
		},
		print: func(s *Settings) string { return c.format(*field(s)) },
		value: func(s *Settings) any { return *field(s) },
	}
}

func (s setting) needs(feature string) setting {
	s.feature = feature
	return s
}

// A table holds the settings of one host: some defaults depend on it.
type table struct {
	byName map[string]*setting // aliases too
	sorted []*setting
}

func newTable(h Host) *table {
	t := &table{byName: map[string]*setting{}}
	for _, group := range [][]setting{access(h), builds(h), sandbox(h), hooks(h), substitution(h), collection(), rest()} {
		for _, s := range group {
			t.sorted = append(t.sorted, &s)
			for _, name := range append([]string{s.name}, s.aliases...) {
				t.byName[name] = &s
			}
		}
	}
	sort.Slice(t.sorted, func(i, j int) bool { return t.sorted[i].name < t.sorted[j].name })
	return t
}

// find looks a written name up; add says that it was written with extra-.
func (t *table) find(name string) (s *setting, add, ok bool) {
	if s, ok = t.byName[name]; ok {
		return s, false, true
	}
	base, isExtra := strings.CutPrefix(name, "extra-")
	if s, ok = t.byName[base]; isExtra && ok && s.appendable {
		return s, true, true
	}
	return nil, false, false
}

const seconds, milliseconds = time.Second, time.Millisecond

func access(Host) []setting {
	type S = Settings
	return []setting{
		list.at("trusted-users", []string{"root"}, func(s *S) *[]string { return &s.TrustedUsers },
			"users and @groups that may do everything"),
		list.at("allowed-users", []string{"*"}, func(s *S) *[]string { return &s.AllowedUsers },
			"users and @groups that may connect; * is everybody"),
		list.at("trusted-public-keys", []string{"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="},
			func(s *S) *[]string { return &s.TrustedPublicKeys },
			"keys whose signature makes a path acceptable", "binary-cache-public-keys"),
		list.at("secret-key-files", nil, func(s *S) *[]string { return &s.SecretKeyFiles },
			"files of keys that sign what is built here"),
		boolean.at("require-sigs", true, func(s *S) *bool { return &s.RequireSigs },
			"refuse paths that are neither content-addressed nor signed by a trusted key"),
		list.at("trusted-substituters", nil, func(s *S) *[]string { return &s.TrustedSubstituters },
			"substituters that an untrusted user may ask for", "trusted-binary-caches"),
	}
}

func builds(h Host) []setting {
	type S = Settings
	return []setting{
		jobs(h.Processors).at("max-jobs", 1, func(s *S) *uint64 { return &s.MaxJobs },
			"builds that run at once; auto is one a processor", "build-max-jobs"),
		integer.at("cores", 0, func(s *S) *uint64 { return &s.Cores },
			"what builders find in NIX_BUILD_CORES; 0 is all", "build-cores"),
		interval(seconds).at("timeout", 0, func(s *S) *time.Duration { return &s.Timeout },
			"seconds after which a build is ended; 0 is never", "build-timeout"),
		interval(seconds).at("max-silent-time", 0, func(s *S) *time.Duration { return &s.MaxSilentTime },
			"seconds of silence after which a build is ended; 0 is never", "build-max-silent-time"),
		integer.at("max-build-log-size", 0, func(s *S) *uint64 { return &s.MaxBuildLogSize },
			"bytes of log after which a build is ended; 0 is never", "build-max-log-size"),
		boolean.at("keep-failed", false, func(s *S) *bool { return &s.KeepFailed }, "keep the folder of a failed build"),
		boolean.at("keep-going", false, func(s *S) *bool { return &s.KeepGoing }, "go on with other builds after a failure"),
		boolean.at("fallback", false, func(s *S) *bool { return &s.Fallback }, "build what cannot be substituted", "build-fallback"),
		integer.at("log-lines", 25, func(s *S) *uint64 { return &s.LogLines }, "last lines of the log in a failure's message"),
		boolean.at("keep-build-log", true, func(s *S) *bool { return &s.KeepBuildLog }, "store build logs", "build-keep-log"),
		boolean.at("compress-build-log", true, func(s *S) *bool { return &s.CompressBuildLog }, "store them as bzip2", "build-compress-log"),
		text.at("system", h.System, func(s *S) *string { return &s.System }, "the system type that is built here"),
		set.at("extra-platforms", h.ExtraPlatforms, func(s *S) *[]string { return &s.ExtraPlatforms }, "further system types that run here"),
		set.at("system-features", h.SystemFeatures, func(s *S) *[]string { return &s.SystemFeatures }, "features that derivations may require"),
		absolute.at("build-dir", "", func(s *S) *string { return &s.BuildDir }, "host folder in which builds get theirs"),
		text.at("build-users-group", h.BuildUsersGroup, func(s *S) *string { return &s.BuildUsersGroup },
			"group whose members run the builders; none of them may connect"),
		boolean.at("auto-allocate-uids", false, func(s *S) *bool { return &s.AutoAllocateUids },
			"take builders' user ids from a range").needs("auto-allocate-uids"),
		integer.at("start-id", 0x34000000, func(s *S) *uint64 { return &s.StartID }, "first id of that range"),
		integer.at("id-count", 1<<16*128, func(s *S) *uint64 { return &s.IDCount }, "size of that range"),
		boolean.at("use-cgroups", false, func(s *S) *bool { return &s.UseCgroups }, "run builds in cgroups").needs("cgroups"),
		boolean.at("impersonate-linux-26", false, func(s *S) *bool { return &s.ImpersonateLinux26 },
			"builders see a 2.6 kernel", "build-impersonate-linux-26"),
		boolean.at("require-drop-supplementary-groups", h.Root, func(s *S) *bool { return &s.RequireDropSuppGroups },
			"fail when supplementary groups cannot be dropped"),
		set.at("ignored-acls", []string{"security.csm", "security.selinux", "system.nfs4_acl"},
			func(s *S) *[]string { return &s.IgnoredACLs }, "extended attributes that may stay on outputs"),
		dictionary.at("impure-env", nil, func(s *S) *map[string]string { return &s.ImpureEnv },
			"environment of fixed-output builds").needs("configurable-impure-env"),
		set.at("allowed-impure-host-deps", nil, func(s *S) *[]string { return &s.AllowedImpureHostDeps }, "host paths a derivation may ask for"),
		list.at("hashed-mirrors", nil, func(s *S) *[]string { return &s.HashedMirrors }, "servers asked for a file by its hash"),
		jsonText.at("external-builders", "[]", func(s *S) *string { return &s.ExternalBuilders }, "programs that build for foreign systems"),
		interval(seconds).at("build-poll-interval", 5*seconds, func(s *S) *time.Duration { return &s.BuildPollInterval }, "seconds between looks at a lock"),
		integer.at("warn-large-path-threshold", 0, func(s *S) *uint64 { return &s.WarnLargePathThreshold }, "size of a path that is worth a warning; 0 is none"),
	}
}

func sandbox(h Host) []setting {
	type S = Settings
	return []setting{
		sandboxMode.at("sandbox", SandboxOn, func(s *S) *SandboxMode { return &s.Sandbox },
			"isolate builders: true, relaxed or false", "build-use-chroot", "build-use-sandbox"),
		sandboxPaths.at("sandbox-paths", h.SandboxPaths, func(s *S) *[]SandboxPath { return &s.SandboxPaths },
			"host paths that every build sees", "build-chroot-dirs", "build-sandbox-paths"),
		boolean.at("sandbox-fallback", true, func(s *S) *bool { return &s.SandboxFallback }, "build without isolation where the kernel has none"),
		required.at("sandbox-build-dir", "/build", func(s *S) *string { return &s.SandboxBuildDir }, "where a build sees its folder"),
		text.at("sandbox-dev-shm-size", "50%", func(s *S) *string { return &s.SandboxDevShmSize }, "size of /dev/shm in a build"),
		boolean.at("filter-syscalls", true, func(s *S) *bool { return &s.FilterSyscalls }, "forbid setuid files and extended attributes"),
		boolean.at("allow-new-privileges", false, func(s *S) *bool { return &s.AllowNewPrivileges }, "let builders gain privileges by exec"),
	}
}

func hooks(h Host) []setting {
	type S = Settings
	return []setting{
		text.at("builders", "@"+h.ConfDir+"/machines", func(s *S) *string { return &s.Builders }, "remote builders"),
		list.at("build-hook", []string{"nix", "__build-remote"}, func(s *S) *[]string { return &s.BuildHook }, "program that passes builds to them"),
		interval(milliseconds).at("build-hook-kill-timeout", 500*milliseconds, func(s *S) *time.Duration { return &s.BuildHookKillTimeout },
			"milliseconds that it gets to end"),
		boolean.at("builders-use-substitutes", false, func(s *S) *bool { return &s.BuildersUseSubstitute }, "remote builders substitute for themselves"),
		text.at("pre-build-hook", "", func(s *S) *string { return &s.PreBuildHook }, "program run before each build"),
		text.at("post-build-hook", "", func(s *S) *string { return &s.PostBuildHook }, "program run after each build"),
		absolute.at("diff-hook", "", func(s *S) *string { return &s.DiffHook }, "program shown two different results of one build"),
		boolean.at("run-diff-hook", false, func(s *S) *bool { return &s.RunDiffHook }, "whether it is run"),
	}
}

func substitution(h Host) []setting {
	type S = Settings
	return []setting{
		boolean.at("substitute", true, func(s *S) *bool { return &s.Substitute }, "fetch what others have built", "build-use-substitutes"),
		list.at("substituters", []string{"https://cache.nixos.org/"}, func(s *S) *[]string { return &s.Substituters },
			"where from", "binary-caches"),
		boolean.at("always-allow-substitutes", false, func(s *S) *bool { return &s.AlwaysAllowSubstitutes }, "also for derivations that forbid it"),
		integer.at("max-substitution-jobs", 16, func(s *S) *uint64 { return &s.MaxSubstitutionJobs }, "downloads at once", "substitution-max-jobs"),
		interval(seconds).at("narinfo-cache-negative-ttl", 3600*seconds, func(s *S) *time.Duration { return &s.NarinfoNegativeTTL }, "how long 'absent' is remembered"),
		interval(seconds).at("narinfo-cache-positive-ttl", 30*24*3600*seconds, func(s *S) *time.Duration { return &s.NarinfoPositiveTTL }, "how long 'present' is"),
		interval(seconds).at("narinfo-cache-meta-ttl", 7*24*3600*seconds, func(s *S) *time.Duration { return &s.NarinfoMetaTTL }, "how long a cache's description is"),
		boolean.at("http2", true, func(s *S) *bool { return &s.HTTP2 }, "speak HTTP/2"),
		boolean.at("http3", false, func(s *S) *bool { return &s.HTTP3 }, "speak HTTP/3"),
		integer.at("http-connections", 25, func(s *S) *uint64 { return &s.HTTPConnections }, "connections at once; 0 is no limit", "binary-caches-parallel-connections"),
		text.at("user-agent-suffix", "", func(s *S) *string { return &s.UserAgentSuffix }, "appended to User-Agent"),
		interval(seconds).at("connect-timeout", 15*seconds, func(s *S) *time.Duration { return &s.ConnectTimeout }, "seconds for a connection; 0 is no limit"),
		interval(seconds).at("stalled-download-timeout", 300*seconds, func(s *S) *time.Duration { return &s.StalledDownloadTimeout }, "seconds without a byte"),
		integer.at("download-attempts", 5, func(s *S) *uint64 { return &s.DownloadAttempts }, "tries of one download", "filetransfer-retry-attempts"),
		interval(milliseconds).at("filetransfer-retry-delay", 250*milliseconds, func(s *S) *time.Duration { return &s.RetryDelay }, "milliseconds before the second try"),
		interval(milliseconds).at("filetransfer-retry-delay-rate-limited", 5000*milliseconds, func(s *S) *time.Duration { return &s.RetryDelayRateLimited }, "the same after 'too many requests'"),
		interval(milliseconds).at("filetransfer-retry-max-delay", 60000*milliseconds, func(s *S) *time.Duration { return &s.RetryMaxDelay }, "longest pause between tries"),
		boolean.at("filetransfer-retry-jitter", true, func(s *S) *bool { return &s.RetryJitter }, "vary the pauses"),
		integer.at("download-buffer-size", 1<<20, func(s *S) *uint64 { return &s.DownloadBufferSize }, "bytes held of one download"),
		integer.at("download-speed", 0, func(s *S) *uint64 { return &s.DownloadSpeed }, "KiB a second; 0 is no limit"),
		required.at("netrc-file", h.ConfDir+"/netrc", func(s *S) *string { return &s.NetrcFile }, "passwords for downloads"),
		absolute.at("ssl-cert-file", h.SSLCertFile, func(s *S) *string { return &s.SSLCertFile }, "certificates that are trusted"),
	}
}

func collection() []setting {
	type S = Settings
	return []setting{
		boolean.at("keep-outputs", false, func(s *S) *bool { return &s.KeepOutputs }, "a live derivation keeps its outputs", "gc-keep-outputs"),
		boolean.at("keep-derivations", true, func(s *S) *bool { return &s.KeepDerivations }, "a live output keeps its derivation", "gc-keep-derivations"),
		integer.at("min-free", 0, func(s *S) *uint64 { return &s.MinFree }, "free bytes below which a collection starts; 0 is never"),
		integer.at("max-free", 1<<63-1, func(s *S) *uint64 { return &s.MaxFree }, "free bytes at which it stops"),
		interval(seconds).at("min-free-check-interval", 5*seconds, func(s *S) *time.Duration { return &s.MinFreeCheckInterval }, "seconds between looks at the free space"),
		integer.at("gc-reserved-space", 8<<20, func(s *S) *uint64 { return &s.GCReservedSpace }, "bytes kept so that a full disk can be collected"),
		boolean.at("ignore-gc-delete-failure", false, func(s *S) *bool { return &s.IgnoreGCDeleteFailure }, "go on when a path cannot be deleted"),
		boolean.at("use-roots-daemon", false, func(s *S) *bool { return &s.UseRootsDaemon }, "ask another daemon for the roots"),
		boolean.at("fsync-metadata", true, func(s *S) *bool { return &s.FsyncMetadata }, "flush the database"),
		boolean.at("fsync-store-paths", false, func(s *S) *bool { return &s.FsyncStorePaths }, "flush contents before registering"),
		boolean.at("sync-before-registering", false, func(s *S) *bool { return &s.SyncBeforeRegistering }, "the same with sync(2)"),
		boolean.at("use-sqlite-wal", true, func(s *S) *bool { return &s.UseSQLiteWAL }, "journal of the database"),
		boolean.at("auto-optimise-store", false, func(s *S) *bool { return &s.AutoOptimiseStore }, "share equal files; always so here"),
		integer.at("nar-buffer-size", 32<<20, func(s *S) *uint64 { return &s.NarBufferSize }, "archives up to it stay in memory"),
		boolean.at("allow-symlinked-store", false, func(s *S) *bool { return &s.AllowSymlinkedStore }, "the store's folder may be reached by a link"),
		boolean.at("preallocate-contents", false, func(s *S) *bool { return &s.PreallocateContents }, "reserve a file's space before writing"),
	}
}

func rest() []setting {
	type S = Settings
	return []setting{
		set.at("experimental-features", nil, func(s *S) *[]string { return &s.ExperimentalFeatures }, "features of Nix that are switched on"),
		absolute.at("json-log-path", "", func(s *S) *string { return &s.JSONLogPath }, "file or socket that gets the log as JSON"),
		boolean.at("show-trace", false, func(s *S) *bool { return &s.ShowTrace }, "full traces in errors"),
		list.at("plugin-files", nil, func(s *S) *[]string { return &s.PluginFiles }, "not used here"),
	}
}

// unknownSetting is the warning that Nix gives.
func unknownSetting(name string) string { return fmt.Sprintf("unknown setting '%s'", name) }
