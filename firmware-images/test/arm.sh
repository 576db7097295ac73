#!/usr/bin/env bash
# Runs the binaries of ARM and RISC-V under qemu-user on the oldest processor that each is for, and shows that the armv7 one does not
# run on ARMv6: so the armv6 one is what it is called. Each agent stores an event, which the amd64 one reads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh

work=$(mktemp -d)
agent=
# shellcheck disable=SC2317 # called by the trap
end() {
  [ -z "$agent" ] || kill -9 "$agent" 2>/dev/null || true
  rm -rf "$work"
}
trap end EXIT

# store ARCH EMULATOR… runs the agent until it has stored that a device is not there, stops it and reads its log.
store() {
  local arch=$1 i
  shift
  cat >"$work/$arch.yaml" <<EOF
version: 1
agent: { id: $arch, data_dir: $work/$arch }
sources: { bus: { modbus: { connection: "tcp://127.0.0.1:9", devices: { meter: { unit: 1, every: 1s, tags: { t: { read: input, at: 0, type: int16 } } } } } } }
uplinks: { central: { kafka: { brokers: [ "127.0.0.1:9" ] } } }
observe: { http: "" }
EOF
  "$@" "$dist/sluice-linux-$arch" version
  "$@" "$dist/sluice-linux-$arch" run -c "$work/$arch.yaml" 2>"$work/$arch.log" &
  agent=$!
  for i in $(seq 600); do
    [ -z "$(ls "$work/$arch/classes/process" 2>/dev/null)" ] || break
    sleep 0.1
  done
  [ "$i" != 600 ] || fail "$arch stored nothing: $(cat "$work/$arch.log")"
  kill "$agent"
  wait "$agent" || fail "$arch did not stop in order: $(cat "$work/$arch.log")"
  agent=
  "$dist/sluice-linux-amd64" buffer export --data-dir "$work/$arch" --class process 2>/dev/null | grep -q '"class":"process"' ||
    fail "amd64 cannot read the log that $arch wrote"
}

command -v qemu-arm >/dev/null || need qemu-user
store armv6 qemu-arm -cpu arm1176
store armv7 qemu-arm -cpu cortex-a7
store arm64 qemu-aarch64 -cpu cortex-a53
store riscv64 qemu-riscv64
status=0
{ (ulimit -c 0; exec qemu-arm -cpu arm1176 "$dist/sluice-linux-armv7" version); } >"$work/log" 2>&1 || status=$?
[ "$status" -eq 132 ] || fail "the armv7 binary ended with $status on an arm1176, not with SIGILL (132): $(cat "$work/log")"
say "armv6 runs on arm1176, armv7 on cortex-a7, arm64 on cortex-a53, riscv64 on rv64gc; armv7 on arm1176 ends with SIGILL; amd64 reads what they wrote"
