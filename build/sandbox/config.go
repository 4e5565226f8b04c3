package sandbox

import (
	"os"
)

// Config is a builder to be run. Folders and files it names are the host's
// unless said otherwise; they must exist and be out of any builder's reach.
type Config struct {
	Isolated bool

	Builder string   // program, as the builder's process sees it
	Args    []string // argv, the program's name first
	Env     []string // "NAME=value"
	Dir     string   // working folder, as the builder sees it

	// Output becomes the standard output and error.
	Output *os.File

	User User
	// UserNamespace shows an isolated builder the uid and gid below, whatever
	// User is on the host.
	UserNamespace bool
	InsideUID     uint32
	InsideGID     uint32

	// StoreDir is the store folder as the builder sees it.
	StoreDir string

	// World is what a builder that is not isolated sees.
	World *World

	// Store is a folder that shows all valid paths, and Upper one that takes
	// what an isolated builder writes to its store folder.
	Store string
	Upper string

	Inputs []Input // what an isolated builder sees of Store
	Mounts []Mount // what it sees of the host besides, each after those that it lies in
	Files  []File  // what is in its /etc

	// Root is an empty folder. It serves as the mount point of every isolated
	// builder's root folder, each in a namespace of its own.
	Root string

	Build   string // build folder; isolated builders see it as Dir
	Temp    string // their /tmp
	ShmSize string // of /dev/shm, as tmpfs takes it; "" for its default
	KVM     bool   // show /dev/kvm

	// Network lets an isolated builder into the host's network.
	Network bool

	FilterSyscalls     bool
	AllowNewPrivileges bool
	Personality        uint32 // added to the fixed address layout that all get
	MaxProcesses       uint64 // of the builder's uid; 0 is no limit of ours
}

// User is who a builder is on the host.
type User struct {
	Switch bool // false: who the daemon is
	UID    uint32
	GID    uint32
	Groups []uint32 // kept only by builders that are not isolated
}

// Kind is what a path is.
type Kind uint8

// Kinds.
const (
	Directory Kind = iota
	Regular
	Symlink
)

// Input is a store path that an isolated builder sees.
type Input struct {
	Base   string
	Kind   Kind
	Target string // of a symlink
}

// Mount is a path of the host that an isolated builder sees.
type Mount struct {
	Target string // absolute, as the builder sees it
	Source string
	Kind   Kind   // of the source
	Link   string // where it points, when it is a symlink
	// Exists says that the target lies in an earlier mount, where there is
	// something to mount on. Nothing is made for it there.
	Exists bool
}

// File is a small file in an isolated builder's /etc.
type File struct {
	Name     string
	Contents string
}
