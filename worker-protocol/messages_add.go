package workerprotocol

import (
	"fmt"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// dataForm tells in which way data follows a request.
type dataForm uint8

const (
	dataNone     dataForm = iota
	dataFramed            // frames of any bytes
	dataTunneled          // an archive, asked for piece by piece in the log stream
	dataBare              // an archive as it is
)

// dataMessage is implemented by requests that data follows.
type dataMessage interface {
	Message
	dataForm(p Protocol) dataForm
}

// AddToStoreRequest adds an object named by its contents. Data follows: in old and new versions
// an archive, but for Text and Flat since 1.25, where it is the contents themselves.
type AddToStoreRequest struct {
	Name   string
	Method storepath.Method
	Algo   nixhash.Algo
	// References and Repair are sent since 1.25.
	References []storepath.Path
	Repair     bool
}

func (m *AddToStoreRequest) check(p Protocol) error {
	switch {
	case p.since(25):
		return nil
	case m.Method != storepath.NAR && m.Method != storepath.Flat:
		return errNotExpressible("AddToStore by method "+m.Method.String(), p, "the protocol is too old (< 1.25)")
	case m.Repair:
		return errNotExpressible("AddToStore with repair", p, "the protocol is too old (< 1.25)")
	case len(m.References) > 0:
		return errNotExpressible("AddToStore with references", p, "the protocol is too old (< 1.25)")
	}
	return nil
}

func (m *AddToStoreRequest) dataForm(p Protocol) dataForm {
	if p.since(25) {
		return dataFramed
	}
	return dataBare
}

func (m *AddToStoreRequest) code(c *coder) {
	c.string("name", &m.Name)
	if !c.since(25) {
		m.codeOld(c)
		return
	}
	c.methodAlgo(&m.Method, &m.Algo)
	c.paths("references", &m.References)
	c.bool("repair flag", &m.Repair)
}

// codeOld moves the form before 1.25. Its first flag is false for a SHA-256 of the archive, and
// then the other fields do not count.
func (m *AddToStoreRequest) codeOld(c *coder) {
	fixed := m.Method != storepath.NAR || m.Algo != nixhash.SHA256
	var recursive uint64
	if m.Method == storepath.NAR {
		recursive = 1
	}
	algo := m.Algo.String()
	c.bool("fixed flag", &fixed)
	c.uint64("recursive flag", &recursive)
	c.string("hash algorithm", &algo)
	if !c.reading() || c.r.err != nil {
		return
	}
	m.Method, m.Algo = storepath.NAR, nixhash.SHA256
	if recursive > 1 {
		c.r.reject(fmt.Errorf("unsupported FileIngestionMethod with value of %d; you may need to upgrade nix-daemon", recursive))
		return
	}
	if !fixed {
		return
	}
	if recursive == 0 {
		m.Method = storepath.Flat
	}
	a, err := nixhash.ParseAlgo(algo)
	c.r.reject(err)
	m.Algo = a
}

// methodAlgo moves "text:sha256", "fixed:r:sha256" and the like.
func (c *coder) methodAlgo(m *storepath.Method, a *nixhash.Algo) {
	s := ""
	if !c.reading() {
		s = m.WithAlgo(*a)
	}
	c.string("content address method", &s)
	if c.reading() && c.r.err == nil {
		var err error
		*m, *a, err = storepath.ParseMethodAlgo(s)
		c.r.reject(err)
	}
}

// AddToStoreResponse has the info of the new path. Before 1.25 only the path is sent.
type AddToStoreResponse struct{ Info ValidPathInfo }

func (m *AddToStoreResponse) code(c *coder) {
	if c.since(25) {
		m.Info.code(c)
	} else {
		c.path("path", &m.Info.Path)
	}
}

// AddTextToStoreRequest adds a text.
type AddTextToStoreRequest struct {
	Name       string
	Text       string
	References []storepath.Path
}

func (m *AddTextToStoreRequest) code(c *coder) {
	c.string("name", &m.Name)
	c.text("text", &m.Text)
	c.paths("references", &m.References)
}

// AddToStoreNarRequest adds a path with the info of another store. An archive follows.
type AddToStoreNarRequest struct {
	Info          ValidPathInfo
	Repair        bool
	DontCheckSigs bool
}

func (m *AddToStoreNarRequest) dataForm(p Protocol) dataForm {
	switch {
	case p.since(23):
		return dataFramed
	case p.since(21):
		return dataTunneled
	}
	return dataBare
}

func (m *AddToStoreNarRequest) code(c *coder) {
	m.Info.code(c)
	c.bool("repair flag", &m.Repair)
	c.bool("flag not to check signatures", &m.DontCheckSigs)
}

// AddMultipleToStoreRequest adds many paths in one stream of frames; see ItemReader and
// ItemWriter.
type AddMultipleToStoreRequest struct {
	Repair        bool
	DontCheckSigs bool
}

func (m *AddMultipleToStoreRequest) dataForm(Protocol) dataForm { return dataFramed }

func (m *AddMultipleToStoreRequest) code(c *coder) {
	c.bool("repair flag", &m.Repair)
	c.bool("flag not to check signatures", &m.DontCheckSigs)
}

// AddBuildLogRequest adds the log of a build, whose bytes follow in frames.
type AddBuildLogRequest struct{ Drv storepath.Path }

func (m *AddBuildLogRequest) dataForm(Protocol) dataForm { return dataFramed }

func (m *AddBuildLogRequest) code(c *coder) { c.basePath("derivation path", &m.Drv) }

// AddToStoreScanningRequest adds an object named by its contents, whose references the server
// finds. Data follows in frames.
type AddToStoreScanningRequest struct {
	Name   string
	Method storepath.Method
	Algo   nixhash.Algo
}

func (m *AddToStoreScanningRequest) dataForm(Protocol) dataForm { return dataFramed }

func (m *AddToStoreScanningRequest) code(c *coder) {
	c.string("name", &m.Name)
	c.methodAlgo(&m.Method, &m.Algo)
}

// AddSignaturesRequest adds signatures to a path.
type AddSignaturesRequest struct {
	Path       storepath.Path
	Signatures []string
}

func (m *AddSignaturesRequest) code(c *coder) {
	c.path("path", &m.Path)
	c.stringList("signatures", &m.Signatures)
}

// RegisterDrvOutputRequest tells where an output is. Before 1.31 only ID and path are sent.
type RegisterDrvOutputRequest struct{ Realisation Realisation }

func (m *RegisterDrvOutputRequest) check(p Protocol) error { return m.Realisation.check(p) }

func (m *RegisterDrvOutputRequest) code(c *coder) {
	if c.since(31) {
		m.Realisation.code(c)
		return
	}
	m.Realisation.ID.code(c)
	c.basePath("output path", &m.Realisation.OutPath)
}

// SubmitOutputRequest tells, inside a build, what an output of that build is.
type SubmitOutputRequest struct {
	Path   SingleDerivedPath
	Output string
}

func (m *SubmitOutputRequest) code(c *coder) {
	m.Path.code(c)
	c.string("output name", &m.Output)
}
