// Package build makes the outputs of derivations.
//
//	request A ─▶ session: goals ─┐                    ┌─▶ sandbox: one builder process
//	request B ─▶ session: goals ─┼─▶ jobs ─▶ slots ───┼─▶ …
//	request C ─▶ session: goals ─┘   (one a derivation)└─▶ outputs ─▶ store
//
// A request becomes a session: a graph of goals, one for every derivation and
// path that it needs, driven by a single goroutine, so goals need no locks and
// a chain of any length no stack. A goal whose inputs are there and whose
// outputs are not asks for a job. Jobs are shared: all sessions that need a
// derivation listen to one job, and it is ended when the last of them leaves.
// A job waits for a slot (max-jobs, over all sessions together, the sessions
// taking turns), gets a scratch folder and perhaps a build user, runs the
// builder in the sandbox (package sandbox), and hands its outputs to the store:
// they are copied in by descriptor after every process of the builder is dead,
// scanned for references, and registered together.
//
// What a client sees, statuses, messages, activities and their numbers, is what
// nix-daemon would show.
package build
