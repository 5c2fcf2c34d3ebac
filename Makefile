# Every developer command. `make` lists them; `make demo` and `make test` work as the first command on a fresh clone.

# Debian's names of what must be there before; Rust comes from rustup, because distributions ship it too old.
SYSTEM_PACKAGES := git make gcc libc6-dev python3 python3-venv
# What `make crash` and the power cut in `make test` need besides (the latter is skipped without it).
CRASH_PACKAGES := strace
# What `make bench` compares with when it is there; without it those rows say "not installed".
BENCH_PACKAGES := nginx-light
PYTHON_MIN := 3.11
RUST_MIN := 1.89

VENV := .venv
BIN := $(VENV)/bin
# The first that runs and is new enough: a name may be a shim of pyenv's that does not.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
  $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < tuple(map(int, "$(PYTHON_MIN)".split("."))))' \
    2>/dev/null && echo $$name && break; done)
RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml $(wildcard Cargo.lock)
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= ring ranges binary_http device
export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: azurite help toolchain setup demo quick test test-rust test-python loom fuzz miri crash soak lint check bench fmt clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

toolchain:
	@missing=0; say() { echo "missing: $$1"; missing=1; }; \
	command -v cc >/dev/null || say "a C compiler and linker (Debian: apt-get install gcc libc6-dev)"; \
	command -v cargo >/dev/null && command -v rustc >/dev/null || say "Rust >= $(RUST_MIN): install rustup (rustup.rs), then: rustup default stable"; \
	if command -v rustc >/dev/null; then \
	  printf '%s\n%s\n' $(RUST_MIN) "$$(rustc --version | cut -d' ' -f2)" | sort -CV || say "Rust >= $(RUST_MIN), this is $$(rustc --version): rustup update stable"; \
	fi; \
	test -n "$(PYTHON)" || say "Python >= $(PYTHON_MIN) with venv (Debian: apt-get install python3 python3-venv), or: make PYTHON=/path/to/python3"; \
	if test $$missing = 1; then echo "On Debian everything but Rust: apt-get install $(SYSTEM_PACKAGES)"; exit 1; fi

$(VENV)/.packages: pyproject.toml
	@$(MAKE) --no-print-directory toolchain
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

# Builds the compiled module in release mode into python/pvblob and installs the package in place, with all extras.
$(VENV)/.built: $(VENV)/.packages $(RUST_SOURCES)
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/maturin develop --quiet --release --extras bench
	@touch $@

setup: $(VENV)/.built ## Check the toolchain, make .venv, install everything, build the compiled module

demo: setup ## The main job: 100 processes read real blobs over HTTP and over the channel (ARGS=...)
	$(BIN)/pvblob demo $(ARGS)

test: test-rust loom test-python ## All tests

# What needs no second process, without the tests that try thousands of cases.
QUICK_TESTS := $(wildcard tests/test_*.py) tests/vmbus tests/blobs tests/front tests/vsc tests/client tests/vsp

quick: test-rust setup ## The unit-level tests, in under a minute
	$(BIN)/pytest -m "not long" $(PYTEST_ARGS) $(QUICK_TESTS)

test-rust:
	cargo test --quiet --workspace

loom: ## The ring's index protocol and the offload table's generations under every interleaving that loom finds
	cargo test --quiet --release -p vmbus --features loom --test loom
	cargo test --quiet --release -p blobdev --features loom --test loom

# cargo-fuzz instruments with flags that only nightly allows; RUSTC_BOOTSTRAP lets stable take them.
fuzz: ## Search for bytes that break the data plane, FUZZ_SECONDS per target (60), and keep what is new in fuzz/corpus
	@command -v cargo-fuzz >/dev/null || { echo "missing: cargo-fuzz: cargo install cargo-fuzz (and a C++ compiler: apt-get install g++)"; exit 1; }
	for target in $(FUZZ_TARGETS); do \
	  RUSTC_BOOTSTRAP=1 CARGO_PROFILE_RELEASE_LTO=off cargo fuzz run --features libfuzzer $$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -print_final_stats=1 || exit 1; \
	done

# What Miri can run: no system calls, so no mappings; those run under the fuzzers' address sanitizer.
miri: ## The index arithmetic, packets, ranges and codecs, and a few fuzzing inputs (fuzz/miri), under Miri (half a minute)
	@cargo +nightly miri --version >/dev/null 2>&1 || { echo "missing: rustup component add --toolchain nightly miri rust-src"; exit 1; }
	MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --quiet -p vmbus --lib -- gpa:: ring:: packet:: poll:: layout::
	MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --quiet -p pvblob-fuzz --test replay

# A module stays in one process: its fixtures start hosts.
test-python: setup target/release/pvblob-limit
	$(BIN)/pytest -n 2 --dist loadfile $(PYTEST_ARGS)

crash: setup ## Kill hosts and guests, cut the power: all points (needs strace; ARGS="--seed N" replays)
	@command -v strace >/dev/null || { echo "missing: $(CRASH_PACKAGES) (Debian: apt-get install $(CRASH_PACKAGES))"; exit 1; }
	CRASH_FULL=1 $(BIN)/pytest tests/crash tests/vsp/test_fairness.py -s --deselect tests/crash/test_soak.py $(ARGS)

soak: setup ## A hundred guests come, go, die and cancel for SOAK_SECONDS (600); the host must stay flat
	$(BIN)/python -m tests.crash.soak

azurite: ## Install Azurite for tests/upstream/test_azurite.py, which are skipped without it (needs node and npm)
	npm install --no-save --no-audit --no-fund azurite@3.35.0

lint: setup ## Formatting, lints, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cargo fmt --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings

check: lint test ## Exactly what CI runs

# The physical limit, and the network to an account elsewhere.
target/release/pvblob-limit: $(RUST_SOURCES)
	cargo build --quiet --release -p limit
	@touch $@

bench: setup target/release/pvblob-limit ## Measure everything, write docs/performance.md (some 20 min; ARGS=... instead)
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx || echo "for the HTTP peers: apt-get install $(BENCH_PACKAGES)"
	$(BIN)/pvblob bench $(if $(ARGS),$(ARGS),all --json build/bench.json --report docs/performance.md)

fmt: setup ## Format everything, fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	cargo fmt

clean: ## Remove everything that was built or installed
	rm -rf $(VENV) target build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f python/pvblob/*.so
	find python tests benches -name __pycache__ -prune -exec rm -rf {} +
