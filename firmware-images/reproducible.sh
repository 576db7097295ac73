#!/usr/bin/env bash
# Builds a second time: from a copy of the sources in another folder, with empty build and module caches, other HOME,
# GOFLAGS, GOAMD64, locale, time zone, umask and file times, and compares SHA256SUMS with those of dist, which `make packages`
# has made. Arguments are the binaries to build again, all by default (armv6, armv7, arm64, riscv64, amd64); the others are taken
# as they are. What is made of the binaries is always made again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh

again=("$@")
[ $# -gt 0 ] || again=("${arches[@]}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/elsewhere/a longer name" "$work/home"
other="$work/elsewhere/a longer name"
# The module proxy of the second build is the download cache of the first.
proxy=file://$(go env GOMODCACHE)/cache/download
tools=$(realpath "$cache")
gobin=$(dirname "$(command -v go)")
commit=$(git rev-parse HEAD 2>/dev/null || true)
short=$(git rev-parse --short=12 HEAD 2>/dev/null || true)
epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0)
modified=$([ -z "$(git status --porcelain 2>/dev/null || true)" ] && echo false || echo true)

tar -c --exclude=./dist --exclude=./bin --exclude=./.git . | tar -x -C "$other" --touch
mkdir -p "$other/dist"
for arch in "${arches[@]}"; do
  [[ " ${again[*]} " == *" $arch "* ]] || cp -p "$dist/sluice-linux-$arch" "$other/dist/"
done
(umask 077 && cd "$other" &&
  env -i PATH="$gobin:/usr/local/bin:/usr/bin:/bin" HOME="$work/home" TZ=Asia/Tokyo LC_ALL=C.UTF-8 GOAMD64=v3 GOPROXY="$proxy" GOSUMDB=off \
    GOTOOLCHAIN=local GOFLAGS="-modcacherw -p=2" SLUICE_BUILD_CACHE="$tools" VERSION="${VERSION:?}" COMMIT="$short" SOURCE_COMMIT="$commit" \
    SOURCE_MODIFIED="$modified" SOURCE_DATE_EPOCH="$epoch" sh -ec "make -s cross ARCHES='${again[*]}'; exec firmware-images/build.sh") \
  >"$work/log" 2>&1 || fail "the second build failed: $(tail -n 20 "$work/log")"
# The bootable image has a check of its own (image/test/run.sh again).
diff <(grep -v '  \(sbom/\|provenance/\)\{0,1\}image/' "$dist/SHA256SUMS") "$other/dist/SHA256SUMS" || fail "the second build differs"
say "all $(wc -l <"$other/dist/SHA256SUMS") files made twice are the same; ${again[*]} compiled twice"
