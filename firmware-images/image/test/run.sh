#!/usr/bin/env bash
# Boots the arm64 image in qemu (TCG: no hardware is needed, and it is slow). Debian, root; installs what it needs.
#
#   run.sh boot            the image as it is released, once, to the first record in a Kafka on this machine
#   run.sh again           the image made twice is the same
#   run.sh all [PATTERN]   updates, power cuts and rollbacks, too, or those tests that match; an hour or so
#
# The image is made if dist has none, or one of another binary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh

VERSION=${VERSION:?is set by the Makefile}
make -s cross ARCHES=arm64 VERSION="$VERSION"
mkdir -p "$STAGE"
packed=$STAGE/packed
if ! { [ -f "$dist/image/sluice-$VERSION-arm64.img.gz" ] && dpkg-deb --fsys-tarfile "$dist/packages/arm64"/*.deb | tar -xO ./usr/bin/sluice >"$packed" && cmp -s "$packed" "$dist/sluice-linux-arm64"; }; then
  if dpkg-deb --fsys-tarfile "$dist/packages/arm64"/*.deb 2>/dev/null | tar -xO ./usr/bin/sluice >"$packed" 2>/dev/null && cmp -s "$packed" "$dist/sluice-linux-arm64"; then
    firmware-images/image/build.sh
  else
    make -s images VERSION="$VERSION"
  fi
fi
rm -f "$packed"
need qemu-system-arm qemu-efi-aarch64 mtools e2fsprogs gdisk
DIST=$(realpath "$dist")
export DIST VERSION

# verdicts prints what the tools of those who take the image say of it.
verdicts() {
  local bundle=$dist/image/sluice-$VERSION-arm64.raucb foreign line
  need rauc openssl python3-venv
  rauc info --keyring="$dist/image/update-ca.pem" "$bundle" >"$STAGE/rauc" 2>&1 || fail "rauc info: $(cat "$STAGE/rauc")"
  for line in "Compatible:.*sluice-arm64-efi" "Version:.*$VERSION" "Bundle Format:.*verity"; do
    grep -q "^$line" "$STAGE/rauc" || fail "rauc info: $(cat "$STAGE/rauc")"
  done
  foreign=$(mktemp -d)
  firmware-images/image/keys.sh "$foreign/keys"
  ! rauc info --keyring="$foreign/keys/ca.pem" "$bundle" >/dev/null 2>&1 || fail "a foreign CA passes"
  say "rauc info: $(sed -n "s/^\(Compatible\|Version\|Bundle Format\): *//p" "$STAGE/rauc" | tr -s '\t\n' ' ')verified; by a foreign CA not"
  rotation "$foreign/keys" "$bundle"
  rm -rf "$foreign"
  attestations
}

# rotation KEYS BUNDLE changes the keys as the README says: a new signing key of the same CA passes, a keyring of the old CA
# and the new one takes bundles of both.
rotation() {
  local payload=$1/payload time bundle
  cat "$dist/image/update-ca.pem" "$1/ca.pem" >"$1/both.pem"
  mkdir "$payload" "$1/old"
  head -c 100000 /dev/urandom >"$payload/rootfs.img"
  printf '[update]\ncompatible=sluice-arm64-efi\nversion=1\n\n[bundle]\nformat=verity\n\n[image.rootfs]\nfilename=rootfs.img\n' >"$payload/manifest.raucm"
  for time in first second; do
    rauc --cert="$1/cert.pem" --key="$1/key.pem" bundle "$payload" "$1/$time.raucb" >"$STAGE/rauc" 2>&1 || fail "rauc bundle: $(cat "$STAGE/rauc")"
    mv "$1/cert.pem" "$1/key.pem" "$1/old/"
    firmware-images/image/keys.sh "$1"
  done
  cmp -s "$1/key.pem" "$1/old/key.pem" && fail "keys.sh made the same key again"
  rauc info --keyring="$1/ca.pem" "$1/second.raucb" >"$STAGE/rauc" 2>&1 || fail "a new signing key of the same CA: $(cat "$STAGE/rauc")"
  for bundle in "$2" "$1/first.raucb" "$1/second.raucb"; do
    rauc info --keyring="$1/both.pem" "$bundle" >"$STAGE/rauc" 2>&1 || fail "a keyring of both CAs: $(cat "$STAGE/rauc")"
  done
  say "keys: a new signing key of the same CA passes, a keyring of two CAs takes bundles of both"
}

# again makes the image a second time, elsewhere and from the same Debian packages, and compares.
again() {
  local other
  other=$(mktemp -d)
  mkdir -p "$other/a longer name/.stage"
  cp -a "$dist/packages" "$dist"/sluice-linux-* "$other/a longer name/"
  cp -a "$STAGE/boms" "$STAGE/sluice-release" "$other/a longer name/.stage/"
  DIST="$other/a longer name" SLUICE_IMAGE_BASE=$cache/image-base.tar TZ=Asia/Tokyo firmware-images/image/build.sh >/dev/null
  cmp "$dist/image/sluice-$VERSION-arm64.img.gz" "$other/a longer name/image/sluice-$VERSION-arm64.img.gz" || fail "the second build of the image differs"
  rm -rf "$other"
  say "the disk image made twice is the same: $(sha256sum <"$dist/image/sluice-$VERSION-arm64.img.gz" | cut -c 1-16)…"
}

case ${1-} in
again) again ;;
boot)
  verdicts
  go test -tags images -count=1 -timeout 20m -v -run 'TestBootToTheFirstRecord|TestNothingOfTestsIsReleased' ./firmware-images/image/test/
  ;;
all)
  again
  need u-boot-qemu
  firmware-images/image/test/variants.sh
  go test -tags images -count=1 -timeout 180m -v -run "${2:-.}" ./firmware-images/image/test/
  ;;
*) fail "boot, again or all" ;;
esac
