#!/usr/bin/env bash
# Installs, upgrades, downgrades, removes and purges the deb in a small Debian of its own, with dpkg. Needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh
# shellcheck source=firmware-images/test/root.sh
. firmware-images/test/root.sh

work=$(mktemp -d)
trap '[ -n "${KEEP:-}" ] || rm -rf "$work"' EXIT
root=$work/root

install_deb() { # FILE; an administrator who keeps his own config
  cp "$work/$1" "$root/tmp/$1"
  in_root "$root" "DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold -i /tmp/$1" >"$work/log" 2>&1 </dev/null ||
    fail "dpkg -i $1: $(cat "$work/log")"
}
installed() { in_root "$root" "dpkg-query -W -f='\${Status} \${Version}' sluice"; }
id_in() { awk -F: '$1 == "sluice" { print $3 }' "$root/etc/$1"; }
is() { [ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""; }
enabled() { if [ -L "$root/etc/systemd/system/multi-user.target.wants/sluice.service" ]; then echo yes; else echo no; fi; }
events() { in_root "$root" "$use_it"; }

check_fresh() {
  is "status after the install" "$(installed)" "install ok installed 0.0.1"
  is "mode of /etc/sluice" "$(stat -c '%a %u:%g' "$root/etc/sluice")" "750 0:$(id_in group)"
  is "mode of the config" "$(stat -c '%a %u:%g' "$root/etc/sluice/sluice.yaml")" "640 0:$(id_in group)"
  is "enabled" "$(enabled)" yes
  in_root "$root" "id -nG sluice" | grep -qw dialout || fail "the user is not in group dialout"
  is "shell of the user" "$(awk -F: '$1 == "sluice" { print $7 }' "$root/etc/passwd")" /usr/sbin/nologin
  in_root "$root" "setpriv --reuid sluice --regid sluice --init-groups sluice check" >/dev/null || fail "the config as installed does not pass"
  is "conffiles" "$(in_root "$root" "dpkg-query -W -f='\${Conffiles}' sluice" | awk 'NF { print $1 }')" /etc/sluice/sluice.yaml
}

# same_buffer WHAT: the events of before are the first of those that the agent has now.
same_buffer() {
  events >"$work/events.now" || fail "the agent does not run after $1"
  head -n "$(wc -l <"$work/events")" "$work/events.now" | cmp -s - "$work/events" || fail "$1 lost events of the buffer"
  grep -q 'mark: kept' "$root/etc/sluice/sluice.yaml" || fail "$1 lost the config"
  cp "$work/events.now" "$work/events"
}

two_versions deb
new_root "$root"
files "$root" >"$work/before"

install_deb old.deb
check_fresh
printf '%s\n' "$with_events" >"$root/etc/sluice/sluice.yaml"
events >"$work/events" || fail "the agent does not run"
[ -s "$work/events" ] || fail "no event is stored"

install_deb new.deb
is "status after the upgrade" "$(installed)" "install ok installed 0.0.2"
same_buffer "the upgrade"
install_deb old.deb
is "status after the downgrade" "$(installed)" "install ok installed 0.0.1"
same_buffer "the downgrade"

in_root "$root" "dpkg -r sluice" >"$work/log" 2>&1 || fail "dpkg -r: $(cat "$work/log")"
is "status after the removal" "$(installed)" "deinstall ok config-files 0.0.1"
[ ! -e "$root/usr/bin/sluice" ] || fail "the binary is there after the removal"
install_deb new.deb
same_buffer "removal and new install"
is "enabled after the new install" "$(enabled)" yes

in_root "$root" "dpkg -P sluice" >"$work/log" 2>&1 || fail "dpkg -P: $(cat "$work/log")"
files "$root" >"$work/after"
diff "$work/before" "$work/after" >"$work/log" || fail "the purge left: $(cat "$work/log")"
[ -n "$(id_in passwd)" ] || fail "the purge took the user away"
in_root "$root" "dpkg --audit" | { ! grep . ; } || fail "dpkg --audit complains"
say "install, upgrade, downgrade, removal, new install and purge: config, $(wc -l <"$work/events") events and user as promised, nothing left"
