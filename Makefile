# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build demo up test test-gpu check lint docs parity conformance conformance-vllm bench bench-gpu bench-inference openapi sqlx base-model examples clean

TARGET_DIRECTORY = $(shell cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
EXECUTABLES := tunesmith tunesmith-trainer tunesmith-engine

help: ## Say what each command does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  make %-15s %s\n", $$1, $$2}'

setup: ## Put LibTorch and PostgreSQL into the user's cache folder (nothing is downloaded twice)
	@python3 scripts/setup.py

build: setup ## Release executables, in bin/
	cargo build --release --locked --bins
	@mkdir -p bin && cd bin && for name in $(EXECUTABLES); do cp -f "$(TARGET_DIRECTORY)/release/$$name" "$$name.new" && mv -f "$$name.new" "$$name"; done

demo: build ## Train, version, deploy and ask an adapter, start to end
	bin/tunesmith demo

up: build ## Start the platform and keep it up
	bin/tunesmith up

test: setup ## Every test, on a real PostgreSQL, a real S3 server and real tensors
	cargo build --locked --workspace --bins
	scripts/with-postgres.sh cargo test --locked --workspace --no-fail-fast

test-gpu: setup ## Tests that need a CUDA GPU
	cargo test --locked -p tunesmith-torch-ext -p tunesmith-model -- --ignored --test-threads 1

check: lint docs ## What CI checks besides the tests

lint: setup
	cargo fmt --all --check
	python3 scripts/check_dependencies.py
	cargo clippy --locked --workspace --all-targets -- -D warnings
	scripts/sqlx-prepare.sh --check

docs: setup
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

parity: build ## Compare with transformers and peft themselves (installs them into .venv-parity)
	scripts/parity/run.sh

conformance: build ## Ask a platform through the official openai package and litellm (installs them into .venv-conformance)
	scripts/conformance/run.sh

conformance-vllm: build ## Serve through real vLLM on the CPU and compare with our engine (installs it into .venv-vllm)
	scripts/conformance/vllm.sh

# BENCH holds options: make bench BENCH="--models 15m --rounds 1".
bench: build ## Training speed and memory beside PEFT and TRL, on the CPU (installs them into .venv-bench)
	tests/bench/run.sh bench.py $(BENCH)

bench-gpu: ## The same on a GPU beside PEFT; tests/bench/README.md says what it needs
	tests/bench/run.sh bench_gpu.py $(BENCH)

bench-inference: build ## Inference beside generate with PEFT and mistral.rs, on the CPU, and what the gateway adds
	tests/bench/run.sh inference.py $(BENCH)

openapi: setup ## Write openapi/openapi.json anew
	cargo run --locked --quiet -p tunesmith-cli --bin tunesmith -- openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

sqlx: setup ## Write .sqlx anew after a change of a query or a migration
	scripts/sqlx-prepare.sh

base-model: build ## Train the bundled base model again, from nothing (hours on a CPU, minutes on a GPU)
	models/primer/make.sh

examples: ## Write the datasets of examples/ anew
	for generator in examples/*/generate.py; do python3 "$$generator" || exit 1; done

clean: ## Remove what was built here; the caches stay
	cargo clean
	rm -rf bin
