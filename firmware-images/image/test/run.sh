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
# shellcheck source=firmware-images/image/parts.sh
. firmware-images/image/parts.sh

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
# and the new one takes bundles of both. What a gateway would refuse is not made: below another CA, or by a certificate that has expired.
rotation() {
  local keys=$1 work=$1/work time bundle
  source_state
  mkdir "$work" "$keys/old"
  cat "$dist/image/update-ca.pem" "$keys/ca.pem" >"$keys/both.pem"
  head -c 100000 /dev/urandom >"$keys/rootfs"
  for time in first second; do
    signed "$keys/ca.pem" "$time"
    mv "$keys/cert.pem" "$keys/key.pem" "$keys/old/"
    firmware-images/image/keys.sh "$keys"
  done
  cmp -s "$keys/key.pem" "$keys/old/key.pem" && fail "keys.sh made the same key again"
  rauc info --keyring="$keys/ca.pem" "$keys/second.raucb" >"$STAGE/rauc" 2>&1 || fail "a new signing key of the same CA: $(cat "$STAGE/rauc")"
  for bundle in "$2" "$keys/first.raucb" "$keys/second.raucb"; do
    rauc info --keyring="$keys/both.pem" "$bundle" >"$STAGE/rauc" 2>&1 || fail "a keyring of both CAs: $(cat "$STAGE/rauc")"
  done
  unsigned "$dist/image/update-ca.pem" "unable to get local issuer certificate"
  openssl req -new -key "$keys/key.pem" -subj /CN=late -out "$work/request"
  openssl x509 -req -in "$work/request" -CA "$keys/ca.pem" -CAkey "$keys/ca-key.pem" -set_serial 1 -days -1 -out "$keys/cert.pem" 2>"$STAGE/rauc" || fail "openssl: $(cat "$STAGE/rauc")"
  unsigned "$keys/ca.pem" "certificate has expired"
  say "keys: a new signing key of the same CA passes, a keyring of two CAs takes bundles of both; nothing is signed below another CA or after the certificate's end"
}
# signed CA NAME makes $keys/NAME.raucb for machines with this CA; unsigned CA WORDS wants that to fail with the words.
signed() { (UPDATE_CA=$1 UPDATE_CERT=$keys/cert.pem UPDATE_KEY=$keys/key.pem; bundle "$keys/rootfs" 1.0.0 "$keys/$2.raucb"); }
unsigned() {
  if signed "$1" no 2>"$STAGE/rauc" || [ -e "$keys/no.raucb" ]; then fail "a bundle is made, in place of '$2'"; fi
  grep -q "$2" "$STAGE/rauc" || fail "no bundle, but not for '$2': $(cat "$STAGE/rauc")"
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
