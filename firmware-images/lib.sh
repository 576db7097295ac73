# shellcheck shell=bash
# What the scripts of this folder share. It is sourced, not run; the caller has set -euo pipefail and stands in the
# root of the repository.

# Versions of the tools, which are built from the Go module proxy. Newer nfpm versions need modules that the proxy
# does not have.
readonly nfpm=github.com/goreleaser/nfpm/v2@v2.44.0
readonly gomod=github.com/CycloneDX/cyclonedx-gomod@v1.10.0
readonly roots=golang.org/x/crypto/x509roots/fallback@v0.0.0-20261030153154-30a33513ff6d
readonly cyclonedx_lib=11.12.0 # of PyPI, the validator
readonly arches=(armv6 armv7 arm64 riscv64 amd64)

dist=${DIST:-dist}
cache=${SLUICE_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-build}

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; exit 1; }

# release_version refuses a VERSION that agents and images could not compare with another: such a gateway could never be updated.
release_version() {
  [[ ${VERSION:?is set by the Makefile} =~ ^[0-9]{1,9}(\.[0-9]{1,9}){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$ ]] || fail "VERSION=$VERSION is no version such as 1.2.3 or 1.2.3-rc1"
}

# go_tool MODULE@VERSION SUBPATH prints the path of the program, and builds it at the first call.
go_tool() {
  local folder=$cache/${1##*@}
  local program=$folder/${2##*/}
  if [ ! -x "$program" ]; then
    env -u GOOS -u GOARCH GOFLAGS=-mod=mod GOBIN="$folder" go install "${1%@*}/$2@${1##*@}" >&2 ||
      fail "cannot build $1: is the Go module proxy reachable?"
  fi
  printf '%s\n' "$program"
}

# roots_der prints the path of Mozilla's CA certificates, DER, as the Go project keeps them.
roots_der() {
  local file=$cache/roots-${roots##*@}.der folder
  if [ ! -s "$file" ]; then
    folder=$(cd / && GOFLAGS=-mod=mod go mod download -json "$roots" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') || fail "cannot download $roots"
    install -m 0644 "$folder/bundle/bundle.der" "$file.new"
    mv "$file.new" "$file"
  fi
  printf '%s\n' "$file"
}

# need PACKAGE… installs Debian packages that are not there.
need() { agent/e2e/install.sh "$@" >/dev/null || fail "cannot install: $*"; }

# make_package FORMAT ARCH FOLDER packs $BINARY as $VERSION; ARCH is nfpm's name, for ipk that of OpenWrt's target. What it
# packs beside the binary was laid ready by build.sh.
make_package() {
  local said program
  program=$(go_tool "$nfpm" cmd/nfpm)
  said=$(set -e; folder=$(realpath "$3"); cd "$STAGE"; ARCH=$2 "$program" package -f packages/nfpm.yaml -p "$1" -t "$folder/" 2>&1) ||
    fail "nfpm could not make the $1 for $2: $said"
}

# source_state sets commit, modified and SOURCE_DATE_EPOCH, where the caller's environment does not say it.
source_state() {
  commit=${SOURCE_COMMIT-$(git rev-parse HEAD 2>/dev/null || true)}
  modified=${SOURCE_MODIFIED-$([ -z "$(git status --porcelain 2>/dev/null || true)" ] && echo false || echo true)}
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
  export SOURCE_DATE_EPOCH
}

# release COMMAND [ARG…] runs sluice-release, which build.sh has built, on what source_state found.
release() {
  local command=$1
  shift
  "$STAGE/sluice-release" "$command" -version "$VERSION" -commit "$commit" -modified="$modified" -epoch "$SOURCE_DATE_EPOCH" \
    -dist "$dist" -builder "${SLUICE_BUILDER:-urn:sluice:builder:local}" -roots "$roots" -tool "$nfpm" -tool "$gomod" "$@"
}

# attestations has CycloneDX's own validator, and more, judge bills of materials and provenance; needs python3-venv.
attestations() {
  local venv=$cache/cyclonedx-$cyclonedx_lib
  if [ ! -x "$venv/done" ]; then
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check "cyclonedx-python-lib[json-validation]==$cyclonedx_lib" || fail "pip could not install the CycloneDX validator"
    install -m 755 /dev/null "$venv/done"
  fi
  say "$("$venv/bin/python" firmware-images/test/attested.py "$dist")"
}

# packages prints each package below dist.
packages() { find "$dist/packages" -type f \( -name '*.deb' -o -name '*.rpm' -o -name '*.apk' -o -name '*.ipk' \) | LC_ALL=C sort; }

STAGE=$(realpath -m "$dist/.stage") # files made for the packages
export STAGE
mkdir -p "$cache"
