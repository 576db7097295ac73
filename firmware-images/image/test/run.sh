#!/usr/bin/env bash
# Boots the arm64 image in qemu (TCG: no hardware is needed, and it is slow). Debian, root; installs what it needs.
#
#   run.sh boot            the image as it is released, once, to the first record in a Kafka on this machine
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
need qemu-system-arm qemu-efi-aarch64 mtools e2fsprogs
DIST=$(realpath "$dist")
export DIST VERSION
case ${1-} in
boot) go test -tags images -count=1 -timeout 10m -v -run 'TestBootToTheFirstRecord' ./firmware-images/image/test/ ;;
all)
  firmware-images/image/test/variants.sh
  go test -tags images -count=1 -timeout 120m -v -run "${2:-.}" ./firmware-images/image/test/
  ;;
*) fail "boot or all" ;;
esac
