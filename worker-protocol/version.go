package workerprotocol

import (
	"fmt"
	"strings"
)

// Version is a version of the protocol: the major number in the upper byte, the minor number in
// the lower one. 1.38 is 0x0126.
type Version uint32

const (
	// MinVersion is the oldest version that is served and spoken.
	MinVersion Version = 1<<8 | 18
	// MaxVersion is the version that this package announces. Later Nix releases keep it and
	// negotiate features instead.
	MaxVersion Version = 1<<8 | 38

	// pathInfoVersion is the fixed version in which AddMultipleToStore encodes path infos,
	// whatever was negotiated.
	pathInfoVersion Version = 1<<8 | 16
)

// MakeVersion is the version with the given numbers.
func MakeVersion(major, minor uint8) Version { return Version(major)<<8 | Version(minor) }

// Major is the number before the dot.
func (v Version) Major() uint8 { return uint8(v >> 8) }

// Minor is the number after the dot.
func (v Version) Minor() uint8 { return uint8(v) }

// String is "1.38" and the like.
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major(), v.Minor()) }

// versionFromWire keeps the two bytes that count, as Nix does.
func versionFromWire(n uint64) Version { return Version(n & 0xffff) }

// Features is a set of protocol features, which are negotiated by name from version 1.38 on.
// The zero value is none.
type Features uint32

const (
	// FeatureRealisationWithPath names a derivation output by the derivation's path instead of
	// a hash, and encodes realisations as fields instead of JSON.
	FeatureRealisationWithPath Features = 1 << iota
	// FeatureDeleteDeadSpecificReferrers lets a collection delete given paths with all their
	// referrers.
	FeatureDeleteDeadSpecificReferrers
	// FeatureDisableSetOptions tells the client not to send SetOptions. Only offered inside a
	// build.
	FeatureDisableSetOptions
	// FeatureAddToStoreScanning allows AddToStoreScanning. Only offered inside a build.
	FeatureAddToStoreScanning
	// FeatureSubmitOutput allows SubmitOutput. Only offered inside a build.
	FeatureSubmitOutput

	// DaemonFeatures are what a daemon offers on its socket.
	DaemonFeatures = FeatureRealisationWithPath | FeatureDeleteDeadSpecificReferrers
	// AllFeatures are what a client understands.
	AllFeatures = DaemonFeatures | FeatureDisableSetOptions | FeatureAddToStoreScanning | FeatureSubmitOutput
)

// featureNames is in the order of the names, in which Nix sends them.
var featureNames = []struct {
	name    string
	feature Features
}{
	{"add-to-store-scanning", FeatureAddToStoreScanning},
	{"delete-dead-specific-referrers", FeatureDeleteDeadSpecificReferrers},
	{"disable-set-options", FeatureDisableSetOptions},
	{"realisation-with-path-not-hash", FeatureRealisationWithPath},
	{"submit-output", FeatureSubmitOutput},
}

// Has reports whether all of g is in f.
func (f Features) Has(g Features) bool { return f&g == g }

// Names lists the names on the wire, sorted.
func (f Features) Names() []string {
	names := []string{}
	for _, n := range featureNames {
		if f.Has(n.feature) {
			names = append(names, n.name)
		}
	}
	return names
}

// String joins the names with commas.
func (f Features) String() string { return strings.Join(f.Names(), ",") }

// ParseFeatures is the set of those names that are known; others are ignored, as the protocol
// wants it.
func ParseFeatures(names []string) Features {
	var f Features
	for _, name := range names {
		for _, n := range featureNames {
			if n.name == name {
				f |= n.feature
			}
		}
	}
	return f
}

// Protocol is what two sides agreed on: it decides how every message is encoded.
type Protocol struct {
	Version  Version
	Features Features
}

// since reports whether the agreed version is at least 1.minor.
func (p Protocol) since(minor uint8) bool { return p.Version >= MakeVersion(1, minor) }

// String is "1.38" or "1.38 (feature,feature)".
func (p Protocol) String() string {
	if p.Features == 0 {
		return p.Version.String()
	}
	return p.Version.String() + " (" + p.Features.String() + ")"
}
