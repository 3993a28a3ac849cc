# `make demo` and `make test` suffice for a start: each installs its missing requirements
# (scripts/setup.sh).

export PATH := $(CURDIR)/target/tools/bin:$(PATH):$(HOME)/.cargo/bin

.PHONY: help demo test torture lint bench bench-full compare fmt setup clean

help:
	@echo 'make demo          a user registration across four failing services, without and with Tasker'
	@echo 'make demo KEEP=1   the same, and stays up to be tried by hand until Ctrl-C'
	@echo 'make test          all tests, on a private Postgres'
	@echo 'make torture       ten minutes of killed servers, workers and databases, and cut networks; then an account of all of it'
	@echo 'make torture SECONDS_=60 SEED=7   shorter, and with these faults'
	@echo 'make lint          format, clippy, documentation, protocol, dependencies'
	@echo 'make bench         how fast it is on this machine; two minutes'
	@echo 'make bench-full    the same with a million finished tasks, and idling; ten minutes'
	@echo 'make compare       the same five steps on Tasker, Restate, DBOS and graphile-worker; five minutes'
	@echo 'make fmt           formats the sources'

demo:
	@scripts/setup.sh demo
	@cargo build --locked --bins --example registration
	@cargo run --locked --quiet --example registration -- demo $(if $(KEEP),--keep) $(DEMO)

# A plain `cargo test` ignores the tests that need a foreign tool. This target installs the tools,
# and includes these tests.
test:
	@scripts/setup.sh test
	cargo test --locked --workspace --lib --bins --tests --examples -- --include-ignored
	cargo test --locked --workspace --doc

# The test prints its seed; the same seed draws the same tasks, outcomes and faults again.
# TASKER_TORTURE_KEEP=1 keeps the ledger, the logs and the timeline also after a success.
torture:
	@scripts/setup.sh torture
	TASKER_TORTURE_SECONDS=$(or $(SECONDS_),$(TASKER_TORTURE_SECONDS),600) \
	TASKER_TORTURE_SEED=$(or $(SEED),$(TASKER_TORTURE_SEED),$(shell date +%s)) \
		cargo test --locked --release --test torture -- --nocapture

lint:
	@scripts/setup.sh lint
	@scripts/lint.sh

# The last line of stdout is the report as JSON; the table and the progress go to stderr.
bench:
	@scripts/setup.sh demo
	@cargo build --locked --release --bin tasker
	@target/release/tasker bench --json $(BENCH)

bench-full:
	@$(MAKE) --no-print-directory bench BENCH='--seconds 30 --preload 1000000 --waiting 100000 --idle --limited $(BENCH)'

# The output is like that of bench; see benches/compare/README.md. The npm packages include the
# Node.js that runs it.
compare: COMPARED := $(CURDIR)/benches/compare
compare: benches/compare/node_modules/.package-lock.json
	@scripts/setup.sh demo
	@cargo build --locked --release --bin tasker
	@PATH="$$(echo $(COMPARED)/node_modules/node-linux-*/bin):$$PATH" node $(COMPARED)/run.mjs $(COMPARE)

# --ignore-scripts: the packages need no install scripts, and some of these report to their vendors.
# npm writes this file at the end of the installation.
benches/compare/node_modules/.package-lock.json: benches/compare/package-lock.json
	@command -v npm >/dev/null || { echo 'there is no npm: install Node.js (18 or newer) with npm, then try again' >&2; exit 69; }
	@echo 'installing what is compared into benches/compare/node_modules (about 400 MB)' >&2
	@cd benches/compare && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2

fmt:
	cargo fmt --all
	cargo fmt --manifest-path tests/outside/Cargo.toml

clean:
	cargo clean
