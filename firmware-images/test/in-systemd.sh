#!/bin/bash
# What systemd.sh runs inside the container. Says "ok: …" for each property, and "passed" at the end.
set -euo pipefail

fail() {
  echo "FAILED: $*"
  systemctl status --no-pager --lines=30 sluice || true
  exit 1
}
show() { systemctl show --value -p "$1" sluice; }
# until_it SECONDS COMMAND… waits until the command succeeds.
until_it() {
  local i
  for ((i = 0; i < $1 * 5; i++)); do
    if "${@:2}" >/dev/null 2>&1; then return; fi
    sleep 0.2
  done
  fail "not within $1 s: ${*:2}"
}
# state prints both states and the process as of one moment: asked one by one, an agent that ends in between is still active
# and already process 0.
state() { systemctl show -p ActiveState -p SubState -p MainPID sluice | sort | sed 's/.*=//' | paste -sd ' '; }
active() { [[ $(state) =~ ^active\ [1-9][0-9]*\ running$ ]]; }
other_pid() {
  local now
  now=$(state)
  [[ $now =~ ^active\ [1-9][0-9]*\ running$ ]] && [ "$now" != "active $1 running" ]
}
events() { [ "$(sluice status 2>/dev/null | awk '$1 == "process" { print $2 }')" -ge "$1" ]; }

dpkg -i /opt/old.deb 2>&1
until_it 60 active
[ "$(show NRestarts)" = 0 ] || fail "it was restarted after the install"
until_it 60 sluice status
echo "ok: READY after the install, as user $(stat -c %U "/proc/$(show MainPID)")"

pid=$(show MainPID)
cp /opt/config /etc/sluice/sluice.yaml
chgrp sluice /etc/sluice/sluice.yaml
systemctl reload sluice || fail "reload"
until_it 60 events 1
other_pid "$pid" && fail "the reload made another process"
echo "ok: reload takes the new config, same process"

mkdir -p /etc/systemd/system/sluice.service.d
printf '[Service]\nWatchdogSec=3\nRestartSec=1\n' >/etc/systemd/system/sluice.service.d/try.conf
systemctl daemon-reload
systemctl restart sluice
sleep 8
[ "$(show NRestarts)" = 0 ] || fail "the watchdog of 3 s was not fed"
pid=$(show MainPID)
kill -STOP "$pid"
until_it 60 other_pid "$pid"
[ "$(show NRestarts)" = 1 ] || fail "restarts: $(show NRestarts)"
echo "ok: the watchdog is fed, and ends an agent that hangs"

pid=$(show MainPID)
kill -9 "$pid"
until_it 60 other_pid "$pid"
until_it 60 events 1
echo "ok: restarted after kill -9 with its backlog"

pid=$(show MainPID)
DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold -i /opt/new.deb </dev/null 2>&1
until_it 60 other_pid "$pid"
until_it 60 events 1
echo "ok: an upgrade restarts it with its config and backlog"

# A terminal with the owner and mode of a serial port, opened under the hardening of the unit.
socat PTY,link=/run/ttyTRY,raw,group=dialout,mode=660 PTY,raw &
until_it 10 test -e /run/ttyTRY
for name in open closed; do
  sed -e 's/^Type=.*/Type=oneshot/' -e "s|^ExecStart=.*|ExecStart=/bin/sh -c 'exec 3<>/run/ttyTRY'|" -e '/^Restart=/d' -e '/^WatchdogSec=/d' \
    -e '/^StateDirectory/d' /usr/lib/systemd/system/sluice.service >/etc/systemd/system/try-$name.service
done
sed -i '/^SupplementaryGroups=/d' /etc/systemd/system/try-closed.service
gpasswd -d sluice dialout >/dev/null # else the user's own groups would do
systemctl daemon-reload
systemctl start try-open || fail "the unit cannot open a serial port: $(journalctl -u try-open --no-pager)"
! systemctl start try-closed 2>/dev/null || fail "a unit without group dialout opens the port, too: this shows nothing"
echo "ok: opens a terminal of group dialout, and not without the group"

dpkg -P sluice 2>&1
! systemctl is-active --quiet sluice || fail "it runs after the purge"
! grep -qx sluice /proc/[0-9]*/comm 2>/dev/null || fail "a process is left"
echo "ok: stopped by the removal"
echo passed
