#!/usr/bin/env bash
# Makes the images that the tests of updates need, in dist/.image-test: a disk whose slots have the test's runner,
# which does what the test tells it over HTTP, and update bundles, most of which are broken in one way. All are of the base
# that image/build.sh has left, packed with gzip, since that takes seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh
# shellcheck source=firmware-images/image/parts.sh
. firmware-images/image/parts.sh
umask 022
export LC_ALL=C TZ=UTC
source_state

work=$(realpath "$dist")/.image-test
rm -rf "$work"
mkdir -p "$work/bundles"
image_tools
keys
SLUICE_IMAGE_BASE=${SLUICE_IMAGE_BASE:-$cache/image-base.tar}
base
VERSION=0.1.0 tree "$work/root"
install -m 755 firmware-images/image/test/runner "$work/root/usr/lib/sluice/test-runner"
cat >"$work/root/usr/lib/systemd/system/sluice-test.service" <<'UNIT'
[Unit]
After=sluice-provision.service
RequiresMountsFor=/etc/sluice
[Service]
ExecStart=/usr/lib/sluice/test-runner
StandardOutput=journal+console
StandardError=journal+console
Restart=always
UNIT
ln -s /usr/lib/systemd/system/sluice-test.service "$work/root/etc/systemd/system/multi-user.target.wants/"
squash "$work/root" "$work/rootfs.squashfs" gzip
VERSION=0.1.0 disk "$work/rootfs.squashfs" "$work/disk.img"

# variant NAME VERSION makes bundles/NAME.raucb after the function break_NAME has been at the root.
variant() {
  local root=$work/variant
  rm -rf "$root"
  cp -al "$work/root" "$root"
  replace "$root/usr/lib/sluice/version.txt" <<<"$2"
  "break_$1" "$root"
  squash "$root" "$work/variant.squashfs" gzip
  bundle "$work/variant.squashfs" "$2" "$work/bundles/$1.raucb"
  rm -rf "$root" "$work/variant.squashfs"
}
# replace FILE writes standard input over a hard link without touching the other names.
replace() {
  local mode
  mode=$(stat -c %a "$1" 2>/dev/null || echo 644)
  rm -f "$1"
  cat >"$1"
  chmod "$mode" "$1"
}
agent() { # VERSION ROOT; what an update brings tells its version
  CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$1" -o "$work/agent" ./agent/cmd/sluice
  replace "$2/usr/bin/sluice" <"$work/agent"
  chmod 755 "$2/usr/bin/sluice"
}
break_good() { agent 0.2.0 "$1"; }
break_next() { agent 0.3.0 "$1"; }
break_older() { :; }
break_agent() { printf '#!/bin/sh\necho broken >&2\nexit 1\n' | replace "$1/usr/bin/sluice"; }
break_cmdline() { printf 'set args="quiet root=PARTLABEL=nowhere"\n' | replace "$1/boot/slot.cfg"; }
break_uplink() { printf '[Match]\nName=*\n[Link]\nUnmanaged=yes\n' | replace "$1/etc/systemd/network/05-cut.network"; }
break_kernel() { head -c 3000000 /dev/urandom | replace "$1/boot/vmlinuz"; }
break_emergency() { sed 's/^PARTLABEL=data .*/PARTLABEL=nowhere \/data ext4 rw,x-systemd.device-timeout=5s 0 0/' "$work/root/etc/fstab" | replace "$1/etc/fstab"; }
# systemd stands still, and with it whoever feeds the watchdog.
break_hang() {
  printf '#!/bin/sh\necho "test: systemd hangs now" >/dev/console\necho 1 >/sys/fs/cgroup/init.scope/cgroup.freeze\nsleep 1000\n' | replace "$1/usr/lib/sluice/test-runner"
}

variant good 0.2.0
variant next 0.3.0
variant older 0.1.9
for name in agent cmdline uplink kernel emergency hang; do variant "$name" 0.4.0; done

# The good one again: signed by somebody else, for another board, and with a flipped bit.
firmware-images/image/keys.sh "$work/foreign" && (
  UPDATE_CA=$work/foreign/ca.pem UPDATE_CERT=$work/foreign/cert.pem UPDATE_KEY=$work/foreign/key.pem
  bundle "$work/rootfs.squashfs" 0.9.0 "$work/bundles/foreign.raucb"
)
bundle "$work/rootfs.squashfs" 0.9.0 "$work/bundles/board.raucb" another-board
cp "$work/bundles/good.raucb" "$work/bundles/tampered.raucb"
printf '\377' | dd of="$work/bundles/tampered.raucb" bs=1 seek=12345678 conv=notrunc status=none
rm -rf "$work/base" "$work/parts" "$work/root" "$work/initramfs"
say "$(find "$work/bundles" -name '*.raucb' | wc -l) bundles and a disk in $work"
