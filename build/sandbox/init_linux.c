// The first thing that runs in a builder's process.
//
// A process of a Go program cannot prepare itself for a builder: the runtime
// has started threads by then, and unshare(2), credentials and seccomp filters
// are of threads. So the daemon runs its own binary again, and this function,
// which the C library calls before Go's runtime starts, takes over when it is
// called by the name below: it performs a list of system calls that the daemon
// wrote and does not return. It is single-threaded, allocates nothing, follows
// no pointer but those of the list, and decides nothing: what is called with
// what is all in Go (program.go has the layout).
//
//	fd 3  the list: a sealed memory file
//	fd 4  reports to the daemon; closed by the execve(2) that ends the list
//	fd 5  only with a FORK: end of file asks the parent to kill its children

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define INIT_NAME "tvixd-sandbox-init"
#define MAGIC 0x7476697864736231ULL

enum { LIST_FD = 3, REPORT_FD = 4, CONTROL_FD = 5 };
enum { OP_FORK = -1 };
enum { REPORT_FAILED = 1, REPORT_EXITED = 2 };
enum { NO_REG = 255, NREGS = 16 };

struct op {
	int64_t nr;         // system call, or one of OP_
	uint64_t arg[6];
	uint8_t from[6];    // register that replaces an argument, or NO_REG
	uint8_t dst;        // register that gets the result, or NO_REG
	uint8_t skip;       // operations to leave out after a tolerated error
	int32_t tolerated[2]; // errors that are none; 0 for none, -1 for all
};
_Static_assert(sizeof(struct op) == 72, "program.go writes 72 bytes");

struct list {
	uint64_t magic, size;
	uint64_t nops, ops;       // count, offset of struct op[]
	uint64_t nrelocs, relocs; // count, offset of uint64_t[]: offsets of pointers
};

struct report {
	int32_t kind, index, value, pad;
};

static void report(int kind, int index, int value)
{
	struct report r = { kind, index, value, 0 };
	// A pipe takes so little in one piece, or the daemon is gone.
	while (write(REPORT_FD, &r, sizeof r) < 0 && errno == EINTR)
		;
}

static _Noreturn void fail(int index, int error)
{
	report(REPORT_FAILED, index, error);
	_exit(127);
}

// init_process is the parent after a FORK and process 1 of its namespace. It
// reaps, reports how the builder ended, and by its own end ends all others.
static _Noreturn void init_process(pid_t builder)
{
	sigset_t chld;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	// The builder's end of file on its output must not wait for this process.
	close(0);
	close(1);
	close(2);
	struct pollfd fds[2] = {
		{ .fd = signalfd(-1, &chld, SFD_CLOEXEC), .events = POLLIN },
		{ .fd = CONTROL_FD, .events = POLLIN },
	};
	if (fds[0].fd < 0)
		fail(-1, errno);
	for (;;) {
		int status;
		pid_t pid;
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			if (pid == builder) {
				report(REPORT_EXITED, 0, status);
				_exit(0);
			}
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			fail(-1, errno);
		if (fds[1].revents) {
			// A builder that is ending keeps the status that it chose.
			kill(-1, SIGKILL);
			fds[1].fd = -1;
		}
		if (fds[0].revents) {
			struct signalfd_siginfo info;
			if (read(fds[0].fd, &info, sizeof info) < 0 && errno != EINTR)
				fail(-1, errno);
		}
	}
}

static long fork_op(void)
{
	// SIGCHLD has to be blocked before there is a child to miss.
	sigset_t chld, old;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, &old);
	pid_t pid = fork();
	if (pid > 0)
		init_process(pid);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return pid;
}

static int tolerated(const struct op *op, int error)
{
	for (int i = 0; i < 2; i++)
		if (op->tolerated[i] == -1 || (op->tolerated[i] != 0 && op->tolerated[i] == error))
			return 1;
	return 0;
}

static void run(const struct op *ops, uint64_t n)
{
	uint64_t regs[NREGS] = { 0 };

	for (uint64_t i = 0; i < n; i++) {
		const struct op *op = &ops[i];
		uint64_t a[6];
		for (int j = 0; j < 6; j++)
			a[j] = op->from[j] < NREGS ? regs[op->from[j]] : op->arg[j];
		long r = op->nr == OP_FORK ? fork_op()
			: syscall(op->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
		if (r == -1) {
			if (!tolerated(op, errno))
				fail((int) i, errno);
			i += op->skip;
		} else if (op->dst < NREGS)
			regs[op->dst] = (uint64_t) r;
	}
}

__attribute__((constructor)) static void sandbox_init(void)
{
	if (strcmp(program_invocation_name, INIT_NAME) != 0)
		return;

	struct stat st;
	if (fstat(LIST_FD, &st) < 0)
		fail(-1, errno);
	char *base = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, LIST_FD, 0);
	if (base == MAP_FAILED)
		fail(-1, errno);
	struct list *l = (struct list *) base;
	uint64_t size = st.st_size;
	if (size < sizeof *l || l->magic != MAGIC || l->size != size
	    || l->ops > size || l->nops > (size - l->ops) / sizeof(struct op)
	    || l->relocs > size || l->nrelocs > (size - l->relocs) / sizeof(uint64_t))
		fail(-1, EINVAL);
	const uint64_t *relocs = (const uint64_t *) (base + l->relocs);
	for (uint64_t i = 0; i < l->nrelocs; i++) {
		if (relocs[i] % 8 != 0 || relocs[i] > size - 8)
			fail(-1, EINVAL);
		*(uint64_t *) (base + relocs[i]) += (uint64_t) (uintptr_t) base;
	}
	close(LIST_FD);
	run((const struct op *) (base + l->ops), l->nops);
	fail(-1, ENOEXEC); // a list ends with an execve that does not return
}
