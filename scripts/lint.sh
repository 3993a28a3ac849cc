#!/usr/bin/env bash
# All static checks of the sources. CI runs this script through `make lint`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

step cargo fmt --all --check
step cargo fmt --manifest-path tests/outside/Cargo.toml --check
step cargo clippy --locked --workspace --all-targets -- -D warnings
# The library that a handler service links, with the features that cargo resolves without the server.
step cargo clippy --locked --package tasker-worker --lib -- -D warnings
step cargo clippy --locked --package tasker-worker --features otel --lib -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --locked --workspace --no-deps --lib --quiet
# The packages that are published. `tests/outside` builds the sources, so they are not built again.
step cargo package --locked --allow-dirty --no-verify --quiet --package tasker-proto --package tasker-worker
step buf lint
step cargo deny --log-level error check --hide-inclusion-graph bans licenses sources

# The advisories change daily and come from another server than the sources, so a failed download
# does not fail the script.
printf '\n== cargo deny check advisories\n'
if timeout 120 cargo deny fetch db >target/advisories.log 2>&1; then
    cargo deny check advisories
else
    echo 'NOT CHECKED: the advisory database cannot be reached from here. This is what was said:'
    tail -n 3 target/advisories.log
fi
printf '\nlint: all clean\n'
