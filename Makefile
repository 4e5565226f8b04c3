# tvixd: the targets that a developer and a packager need. `make help` lists them.
SHELL := /bin/bash
GO ?= go
export CGO_ENABLED = 1
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS = -X main.version=$(VERSION)
# The end-to-end tests use real daemons and mounts; they run alone, after the rest.
PACKAGES = $$($(GO) list ./... | grep -v '/e2e$$')

.PHONY: help setup build demo test race bench fuzz lint clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install what building and testing need
	@scripts/setup

build: setup ## build bin/tvixd
	$(GO) build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)' -o bin/tvixd ./cmd/tvixd

demo: build ## a real nix build through tvixd, its result read from the mount
	@scripts/demo bin/tvixd

test: setup ## run every test
	$(GO) vet ./...
	$(GO) test -count=1 -timeout 15m $(PACKAGES)
	$(GO) test -count=1 -timeout 20m ./e2e

race: setup ## run the tests under the race detector, but for the end-to-end ones
	$(GO) test -count=1 -race -timeout 30m $(PACKAGES)

bench: setup ## run the benchmarks of all hot paths
	$(GO) test -run '^$$' -bench . -benchmem $(PACKAGES)

fuzz: setup ## fuzz each target for FUZZTIME (default 10s)
	@scripts/fuzz $${FUZZTIME:-10s}

lint: setup ## gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

clean: ## remove what was built
	rm -rf bin
