#!/usr/bin/env bash
# Makes the bootable arm64 image and its update bundle from the deb of `make packages`: dist/image/. Debian 12 or later, root;
# installs what it needs. `make images` calls it and sets VERSION.
#
#   VERSION            of the release
#   SLUICE_UPDATE_CA   certificates that bundles are checked against, PEM; it goes into the image
#   SLUICE_UPDATE_CERT, SLUICE_UPDATE_KEY
#                      who signs the bundle: certificate, and key file or PKCS#11 URI. Without these three a key is made,
#                      kept in the build cache and used: for trying out, not for a release
#   SLUICE_IMAGE_BASE  take this base (base.tar of an earlier build's cache) in place of today's Debian packages
#   SOURCE_DATE_EPOCH  every date; default: the date of the commit
#   DIST               output folder, default dist
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh
# shellcheck source=firmware-images/image/parts.sh
. firmware-images/image/parts.sh
umask 022
export LC_ALL=C TZ=UTC VERSION=${VERSION:?is set by the Makefile}
release_version
source_state

work=$STAGE/image
rm -rf "$work" "$dist/image"
mkdir -p "$work" "$dist/image"
image_tools
keys
base
tree "$work/root"
squash "$work/root" "$work/rootfs.squashfs" xz
[ "$(stat -c %s "$work/rootfs.squashfs")" -le 40000000 ] || fail "the root is larger than 40 MB: $(stat -c %s "$work/rootfs.squashfs") bytes"
bundle "$work/rootfs.squashfs" "$VERSION" "$dist/image/sluice-$VERSION-arm64.raucb"
disk "$work/rootfs.squashfs" "$work/disk.img"
gzip -n -1 <"$work/disk.img" >"$dist/image/sluice-$VERSION-arm64.img.gz"
cp "$UPDATE_CA" "$dist/image/update-ca.pem"
cp "$work/debs" "$dist/image/debian-packages.txt"
chmod 644 "$dist"/image/*
release attest -boms "$STAGE/boms" -debs "$work/debs" "arm64=image/sluice-$VERSION-arm64.img.gz" "arm64=image/sluice-$VERSION-arm64.raucb"
firmware-images/sign.sh
say "root $(stat -c %s "$work/rootfs.squashfs") bytes, disk $(stat -c %s "$work/disk.img"), packed $(stat -c %s "$dist/image/sluice-$VERSION-arm64.img.gz"), bundle $(stat -c %s "$dist/image/sluice-$VERSION-arm64.raucb")"
[ -n "${SLUICE_UPDATE_KEY:-}" ] || say "bundles are signed with a key made here: for trying out, not for a release"
