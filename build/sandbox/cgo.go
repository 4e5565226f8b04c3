package sandbox

// init_linux.c is compiled into every binary that links this package.

import "C"
