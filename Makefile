# The commands of kr-serve-mlx. Whatever needs more than a few lines is an xtask.

PROMPT ?= What is the capital of France, and what is it known for?
ARGS ?=
BACKEND ?= cpu
SECONDS_TO_FUZZ ?= 60
# Of the benchmarks; what is empty is their own default.
ROUNDS ?=
CONCURRENCY ?=
ENGINES ?=
THREADS ?=
SCENARIO ?=
export PROMPT

BENCH_SETTINGS = $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) \
	$(if $(ENGINES),--engines $(ENGINES)) $(if $(THREADS),--threads $(THREADS))

PROGRAMS := -p kr-router -p kr-worker -p kr-cli
XTASK := cargo xtask

.DEFAULT_GOAL := help
.PHONY: help packages packages-coverage setup build demo serve test coverage check bench bench-peers profile fuzz clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages:
	@sh xtask/packages.sh

packages-coverage:
	@sh xtask/packages.sh coverage

# xtask is built in the open first: `cargo xtask` itself is quiet.
setup: packages ## Install or name missing system packages, get MLX, compile mlx-c
	@cargo build --package xtask
	@$(XTASK) mlx --backend $(BACKEND)

build: setup ## Build the release binaries kr, kr-router and kr-worker
	@cargo build --release $(PROGRAMS)

demo: build ## Answer PROMPT="…" with the demo model, streamed to the terminal
	@$(XTASK) demo --prompt="$$PROMPT"

serve: build ## Serve in the foreground; ARGS="--workers 2" and the like go to kr-router
	@exec $(XTASK) serve -- $(ARGS)

test: setup packages-coverage ## Run everything that must hold, counting coverage where its tools can be had
	@$(XTASK) test

coverage: setup packages-coverage ## The same, and fail where coverage cannot be counted
	@$(XTASK) coverage

check: setup ## Check format, lints, docs, dependencies and protos
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: dependencies not checked (cargo install cargo-deny --locked)" >&2; fi
	@$(XTASK) protos

bench: build ## Measure the release; ROUNDS=, SCENARIO=prefix|chat|mixed|pressure, or ARGS= for kr bench alone
	@$(if $(ARGS),$(XTASK) kr-bench -- $(ARGS),$(XTASK) bench $(if $(SCENARIO),--scenario $(SCENARIO)) $(BENCH_SETTINGS))

bench-peers: build ## Measure the release beside mlx-lm and llama.cpp; ROUNDS=, ENGINES=, CONCURRENCY=, THREADS=
	@$(XTASK) bench-peers $(BENCH_SETTINGS)

profile: build ## Break decode and prefill steps of the demo model into named parts
	@$(XTASK) profile

fuzz: ## Look for GGUF headers that break the reader, for SECONDS_TO_FUZZ (60); needs cargo-fuzz
	@mkdir -p shared/gguf/fuzz/corpus/header
	cd shared/gguf && RUSTC_BOOTSTRAP=1 cargo fuzz run header fuzz/corpus/header fixtures -- \
		-max_total_time=$(SECONDS_TO_FUZZ) -rss_limit_mb=1024 -max_len=65536

clean: ## Remove build outputs; the cache of downloads stays
	cargo clean
	rm -f .cargo/mlx.toml
