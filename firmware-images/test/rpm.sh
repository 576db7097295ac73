#!/usr/bin/env bash
# Installs, upgrades, downgrades and removes the rpm below a root of its own, with Debian's rpm. The root is a Debian, so
# what the package requires by name is not asked for (--nodeps). Needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh
# shellcheck source=firmware-images/test/root.sh
. firmware-images/test/root.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

in_rpm() { unshare --mount --pid --net --fork --kill-child rpm --root "$root" "$@"; }
change() { # WHAT RPM-ARGUMENT…
  local what=$1
  shift
  in_rpm --nodeps "$@" >"$work/log" 2>&1 </dev/null || fail "$what: $(cat "$work/log")"
  ! grep -q 'scriptlet failed\|warning: user\|warning: group' "$work/log" || fail "$what: $(cat "$work/log")"
}
id_in() { awk -F: '$1 == "sluice" { print $3 }' "$root/etc/$1"; }
is() { [ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""; }
events() { in_root "$root" "$use_it"; }
same_buffer() {
  events >"$work/events.now" || fail "the agent does not run after $1"
  head -n "$(wc -l <"$work/events")" "$work/events.now" | cmp -s - "$work/events" || fail "$1 lost events of the buffer"
  grep -q 'mark: kept' "$root/etc/sluice/sluice.yaml" || fail "$1 lost the config"
  cp "$work/events.now" "$work/events"
}

command -v rpm >/dev/null || need rpm
two_versions rpm
new_root "$root"
mkdir -p "$root/usr/lib/sysusers.d" # systemd's
files "$root" >"$work/before"
in_rpm --initdb

change install -i "$work/old.rpm"
is version "$(in_rpm -q sluice)" sluice-0.0.1-1.x86_64
in_rpm -V --nodeps sluice >"$work/log" || fail "rpm -V: $(cat "$work/log")"
is "mode of /etc/sluice" "$(stat -c '%a %u:%g' "$root/etc/sluice")" "750 0:$(id_in group)"
is "mode of the config" "$(stat -c '%a %u:%g' "$root/etc/sluice/sluice.yaml")" "640 0:$(id_in group)"
printf '%s\n' "$with_events" >"$root/etc/sluice/sluice.yaml"
events >"$work/events" || fail "the agent does not run"
[ -s "$work/events" ] || fail "no event is stored"

change upgrade -U "$work/new.rpm"
is version "$(in_rpm -q sluice)" sluice-0.0.2-1.x86_64
[ -e "$root/etc/sluice/sluice.yaml.rpmnew" ] || fail "the new default config is not beside the changed one"
same_buffer "the upgrade"
change downgrade -U --oldpackage "$work/old.rpm"
is version "$(in_rpm -q sluice)" sluice-0.0.1-1.x86_64
same_buffer "the downgrade"

change removal -e sluice
[ ! -e "$root/usr/bin/sluice" ] || fail "the binary is there after the removal"
[ -e "$root/etc/sluice/sluice.yaml.rpmsave" ] || fail "the removal took the config away"
[ -d "$root/var/lib/sluice/classes" ] || fail "the removal took the buffer away"
rm -r "$root/etc/sluice" "$root/var/lib/sluice"
files "$root" >"$work/after"
diff "$work/before" "$work/after" >"$work/log" || fail "the removal left: $(cat "$work/log")"
say "install, rpm -V, upgrade, downgrade and removal: config and $(wc -l <"$work/events") events as promised, nothing else left"
