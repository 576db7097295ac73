#!/usr/bin/env bash
# Installs what the end-to-end tests need on Debian 12: Java 17, Maven, Mosquitto, kcat, python3-venv, socat, gcc and
# libmodbus from Debian, the jars of Apache Kafka from Maven Central, pymodbus from PyPI. Runs as root or with sudo; a
# second run changes nothing. Jars and venv go to $SLUICE_E2E_CACHE, default ${XDG_CACHE_HOME:-$HOME/.cache}/sluice-e2e.
# With arguments only these Debian packages are installed.
set -euo pipefail

# The Kafka version stands in pom.xml; change the folder's name with it (kafka.go reads the same name).
readonly jars_dir=kafka-4.1.0
readonly pymodbus=3.16.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SLUICE_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-e2e}

packages=(openjdk-17-jre-headless maven mosquitto kcat python3-venv socat gcc libc6-dev libmodbus-dev)
[ $# = 0 ] || packages=("$@")

say() { printf 'e2e install: %s\n' "$*"; }
fail() { printf 'e2e install: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else fail "needs root for '$*': run as root or install sudo"
  fi
}

missing_packages() {
  local pkg
  for pkg in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$pkg" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$pkg"
  done
}

# Debian starts mosquitto on port 1883 when it is installed. policy-rc.d forbids that while apt-get runs; the tests
# start brokers of their own.
install_packages() {
  local missing policy=/usr/sbin/policy-rc.d own_policy=no
  missing=$(missing_packages)
  [ -n "$missing" ] || { say "Debian packages are there"; return; }
  command -v apt-get >/dev/null || fail "no apt-get: install these by hand: $missing"
  say "apt-get install $missing"
  as_root apt-get update -q || fail "apt-get update failed: is the package mirror reachable?"
  if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  # shellcheck disable=SC2086 # one word per package
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y -o Dpkg::Use-Pty=0 --no-install-recommends $missing ||
    fail "apt-get could not install: $missing"
  if [ "$own_policy" = yes ]; then as_root rm -f "$policy"; trap - EXIT; fi
  if [[ $missing == *mosquitto* ]] && [ -d /run/systemd/system ]; then
    as_root systemctl disable --now mosquitto.service >/dev/null 2>&1 || true
  fi
}

# A folder appears under its final name only when it is complete, so that an interrupted run is repeated.
install_jars() {
  local dir=$cache/$jars_dir tmp
  [ -d "$dir" ] && cmp -s "$here/pom.xml" "$dir/pom.xml" && { say "Kafka jars are there"; return; }
  say "Kafka jars to $dir"
  tmp=$(mktemp -d "$cache/.jars.XXXXXX")
  cp "$here/pom.xml" "$tmp/pom.xml"
  mvn -B -q -f "$tmp/pom.xml" dependency:copy-dependencies -DoutputDirectory="$tmp" ||
    { rm -rf "$tmp"; fail "Maven could not fetch the Kafka jars: is Maven Central reachable?"; }
  rm -rf "$dir" && chmod 755 "$tmp" && mv "$tmp" "$dir"
}

install_pymodbus() {
  local dir=$cache/pymodbus-$pymodbus tmp
  [ -x "$dir/bin/python" ] && "$dir/bin/python" -c 'import pymodbus, serial' 2>/dev/null && { say "pymodbus is there"; return; }
  say "pymodbus $pymodbus to $dir"
  rm -rf "$dir"
  /usr/bin/python3 -m venv "$dir" || fail "python3 -m venv failed: is python3-venv installed?"
  "$dir/bin/pip" install -q --disable-pip-version-check "pymodbus[serial]==$pymodbus" ||
    { rm -rf "$dir"; fail "pip could not install pymodbus==$pymodbus: is PyPI reachable?"; }
}

mkdir -p "$cache" || fail "cannot create $cache: set SLUICE_E2E_CACHE to a folder that can be written"
install_packages
[ $# = 0 ] || exit 0
install_jars
install_pymodbus
