#!/usr/bin/env bash
# Boots a small Debian with systemd in a container (systemd-nspawn, no network but loopback), installs the deb and tries the
# service: notification, watchdog, restart, reload, upgrade, serial port, removal. Debian, root; about a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh
# shellcheck source=firmware-images/test/root.sh
. firmware-images/test/root.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

need mmdebstrap systemd-container
two_versions deb
new_root "$root" systemd,systemd-sysv,dbus,socat
cp "$work/old.deb" "$work/new.deb" "$root/opt/"
printf '%s\n' "$with_events" >"$root/opt/config"
cp firmware-images/test/in-systemd.sh "$root/opt/"
cat >"$root/etc/systemd/system/try.service" <<'EOF'
[Service]
Type=oneshot
ExecStart=/bin/bash /opt/in-systemd.sh
ExecStopPost=/bin/systemctl poweroff --force
TimeoutStartSec=240
StandardOutput=file:/opt/said
StandardError=inherit
EOF
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../try.service "$root/etc/systemd/system/multi-user.target.wants/"

timeout --kill-after=20 300 systemd-nspawn --quiet --register=no --keep-unit --private-network --boot --directory="$root" \
  --machine="sluice-try-$$" </dev/null >"$work/console" 2>&1 || true
[ -s "$root/opt/said" ] || fail "systemd did not come up: $(tail -n 20 "$work/console")"
tail -n 1 "$root/opt/said" | grep -qx passed || fail "$(cat "$root/opt/said")"
say "under systemd in a container: $(grep -c '^ok: ' "$root/opt/said") properties hold: $(sed -n 's/^ok: //p' "$root/opt/said" | paste -sd ';' | sed 's/;/; /g')"
