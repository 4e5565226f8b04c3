package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// stopTime is how long a daemon that was told to stop may take before it can be told to die. Until
// then its mount is in use, and must not be left behind dead because somebody was told twice:
// timeout(1), for one, sends its signal to the process and to its group.
const stopTime = 90 * time.Second

// stopSignals are the signals that ask this process to stop. A process that was started by nohup
// outlives its terminal.
func stopSignals() []os.Signal {
	signals := []os.Signal{unix.SIGTERM, unix.SIGINT}
	if !signal.Ignored(unix.SIGHUP) {
		signals = append(signals, unix.SIGHUP)
	}
	return signals
}

// untilSignal returns a context that ends at the first of signals. Further ones are ignored for the
// time of patience; later ones end the process whatever it is doing.
func untilSignal(patience time.Duration, signals ...os.Signal) context.Context {
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, func() { time.AfterFunc(patience, stop) })
	return ctx
}
