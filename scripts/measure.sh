#!/usr/bin/env bash
# Prints the counts of the sources that CONTRIBUTING.md limits: size and density of files and
# functions, circles of imports, and the wording of comments, messages and documents.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The tests of a target run in an unknown order, so one thread keeps their lines together.
cargo test --locked --quiet --test structure --test prose -- --nocapture --test-threads 1
