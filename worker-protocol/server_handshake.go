package workerprotocol

// handshakeBudget bounds what a peer may make us keep before it is known to be a client.
const handshakeBudget = 64 << 10

// handshake answers the client's first words. A client that cannot be served gets no answer
// where that is possible, and never a text, as with nix-daemon.
func (c *ServerConn) handshake() error {
	if magic := c.r.Uint64("client magic"); c.r.err == nil && magic != clientMagic {
		c.r.fail("client magic", "%#x is not that of a Nix client", magic)
	}
	if c.r.err != nil {
		return c.r.err
	}
	// Newer clients send their version with the magic, so that one may look at it before
	// answering; older ones wait for the answer.
	pipelined := c.r.src.Buffered() >= 8
	if !pipelined {
		if err := c.hello(); err != nil {
			return err
		}
	}
	client := versionFromWire(c.r.Uint64("client version"))
	if c.r.err == nil && client < MinVersion {
		c.r.fail("client version", "%s is older than %s", client, MinVersion)
	}
	if c.r.err != nil {
		return c.r.err
	}
	if pipelined {
		if err := c.hello(); err != nil {
			return err
		}
	}
	c.proto.Version = min(client, MaxVersion)
	if c.proto.since(38) {
		theirs := c.r.Strings("client features")
		if c.r.err != nil {
			return c.r.err
		}
		c.w.Strings(c.opts.Features.Names())
		if err := c.flush(); err != nil {
			return err
		}
		c.proto.Features = ParseFeatures(theirs) & c.opts.Features
	}
	if c.r.Bool("CPU affinity flag") {
		c.r.Uint64("CPU affinity")
	}
	c.r.Uint64("reserve space flag")
	if c.r.err != nil {
		return c.r.err
	}
	return c.welcome()
}

// hello sends the server's first words.
func (c *ServerConn) hello() error {
	c.w.Uint64(serverMagic)
	c.w.Uint64(uint64(MaxVersion))
	return c.flush()
}

// welcome ends the handshake.
func (c *ServerConn) welcome() error {
	info := HandshakeInfo{DaemonVersion: c.opts.DaemonVersion, Trust: c.opts.Trust}
	info.code(c.writer())
	var refused error
	if c.opts.Admit != nil {
		refused = c.opts.Admit(c.proto)
	}
	if refused == nil {
		c.w.Uint64(stderrLast)
	} else {
		c.w.Uint64(stderrError)
		errorOf(refused).code(c.writer())
	}
	if err := c.flush(); err != nil {
		return err
	}
	return refused
}

// HandshakeInfo is what a server tells of itself at the end of the handshake.
type HandshakeInfo struct {
	// DaemonVersion is sent since 1.33.
	DaemonVersion string
	// Trust is sent since 1.35.
	Trust Trust
}

func (i *HandshakeInfo) code(c *coder) {
	if c.since(33) {
		c.string("daemon version", &i.DaemonVersion)
	}
	if c.since(35) {
		enum(c, "trust", &i.Trust, trusts)
	}
}
