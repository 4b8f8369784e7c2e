# Everything a fresh Debian 12 needs, from apt and the crates registry alone. `make` says what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO := $(shell command -v cargo || echo $(HOME)/.cargo/bin/cargo)
export PATH := $(HOME)/.cargo/bin:$(PATH)
BIN := target/release

.PHONY: help setup demo up build test soak bench fmt

help: ## show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-8s %s\n", $$1, $$2 }'

setup: ## install what is missing (apt packages, build targets)
	@scripts/setup.sh

build: setup ## release binaries
	@$(CARGO) build --release --locked --package wharf
	@$(CARGO) xtask host --release

demo: build ## an agent's session from nothing to fork, on real data
	@$(CARGO) xtask demo

up: build ## start the server with the base image and leave it running
	@$(BIN)/wharf image build base --cache target/images
	@$(BIN)/wharf up

test: ## every check and every test
	@scripts/setup.sh --test
	@WHARF_TEST_REQUIRE=$${WHARF_TEST_REQUIRE:-jail,docker,postgres,ssh,python,base-image,desktop,desktop-image} $(CARGO) xtask ci

soak: ## 300 rounds of kill -9 under load
	@scripts/setup.sh --test
	@$(CARGO) xtask soak

bench: build ## latencies beside Docker Engine and direct connections, into target/bench
	@scripts/setup.sh --bench
	@$(CARGO) xtask bench sessions
	@$(CARGO) xtask bench gateway

fmt: ## format the code
	@$(CARGO) fmt --all
