#!/usr/bin/env bash
# Runs golangci-lint over the whole module, the end-to-end tests included, by the rules of .golangci.yml. The linter is
# built from the Go module proxy at this version (a minute the first time, then it comes from Go's build cache). Arguments
# replace the packages, ./... by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly linter=github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

[ $# -gt 0 ] || set -- ./...
exec go run "$linter" run "$@"
