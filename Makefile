# SPDX-License-Identifier: MIT OR Apache-2.0
# An index; the work is in scripts/. `make help` lists it.

.PHONY: help demo build test test-unit test-runtime test-vm test-podman kill-sweep bench bench-network lint fmt clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: ## build, make a bundle from busybox, run it, show what isolates it (root; a fresh Debian is enough)
	@scripts/demo

build: ## the release binary, static; prints where it is
	@scripts/build

test: ## everything: unit tests, black-box suite, kill sweep (root)
	@scripts/test

test-unit: ## the tests inside of the crates
	@scripts/test-unit

test-runtime: ## the black-box suite; RUNTIME=/usr/sbin/runc for another binary, ARGS=filter
	@scripts/test-runtime $(ARGS)

test-vm: ## the same with systemd and pure cgroup v2, in emulated machines; ARGS="--all trixie -- filter"
	@scripts/test-vm $(ARGS)

test-podman: ## Debian's Podman on oar, without root and with, in an emulated machine
	@scripts/test-podman

kill-sweep: ## SIGKILL at every syscall of create, start, run, delete, exec, pause …; ARGS="--step 7 create" to thin it
	@scripts/kill-sweep $(ARGS)

bench: ## oar next to crun and runc, in turns; ARGS="--rounds 200"
	@scripts/bench $(ARGS)

bench-network: ## what a network costs, next to CNI plugins and netavark; ARGS="--rounds 200 --seconds 10"
	@scripts/bench-network $(ARGS)

lint: ## rustfmt, clippy, cargo deny if installed, docs/conformance.md
	@scripts/lint

fmt: ## format the sources
	cargo fmt --all

clean: ## what make has built and the demo's files
	cargo clean
	rm -rf .demo target/vm
