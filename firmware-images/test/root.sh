# shellcheck shell=bash
# A small Debian to install into. It is sourced after lib.sh.

# The Debian that is made.
readonly suite=bookworm

# new_root FOLDER [PACKAGES] unpacks a fresh root with what the tests of the packages need, and PACKAGES, separated by
# commas; each is made at the first call and kept in the cache.
new_root() {
  local in_it=passwd,init-system-helpers,iproute2,util-linux${2:+,$2}
  local tarball=$cache/root-$suite-$in_it.tar
  if [ ! -s "$tarball" ]; then
    command -v mmdebstrap >/dev/null || need mmdebstrap
    mmdebstrap --quiet --mode=root --variant=essential --include="$in_it" "$suite" "$tarball.new.tar" ||
      fail "mmdebstrap could not make a Debian $suite: is the package mirror reachable?"
    mv "$tarball.new.tar" "$tarball"
  fi
  mkdir -p "$1"
  tar -C "$1" -xf "$tarball" --exclude='./dev/*'
  mknod -m 666 "$1/dev/null" c 1 3
  mknod -m 666 "$1/dev/urandom" c 1 9
}

# in_root FOLDER SCRIPT [ARG…] runs the shell script in the root, with processes, mounts and network of its own: whatever it
# starts or mounts ends with it.
in_root() {
  local root=$1 script=$2
  shift 2
  unshare --mount --pid --net --fork --kill-child --mount-proc="$root/proc" \
    chroot "$root" /bin/sh -euc "PATH=/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; export PATH LC_ALL; $script" sh "$@"
}

# files FOLDER lists what is in the root, with owner and mode, but for what every installation touches.
files() {
  (cd "$1" && find . -xdev \( -path ./proc -o -path ./tmp -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/dpkg -o -path ./root/.rpmdb \) -prune -o \
    ! -path './etc/passwd*' ! -path './etc/group*' ! -path './etc/*shadow*' ! -path './etc/subuid*' ! -path './etc/subgid*' \
    ! -path './etc/.pwd.lock' ! -path ./var/lib ! -path ./etc -printf '%p %U:%G %m\n') | LC_ALL=C sort
}

# two_versions FORMAT packs the amd64 binary as 0.0.1 and, with another default config, as 0.0.2 as
# $work/old.FORMAT and $work/new.FORMAT.
two_versions() {
  local version
  [ -d "$STAGE/packages" ] || fail "nothing is laid ready in $STAGE: run make packages"
  BINARY=$(realpath "$dist/sluice-linux-amd64")
  export BINARY
  cp -r "$STAGE" "$work/stage"
  STAGE=$work/stage
  for version in 0.0.1 0.0.2; do
    mkdir -p "$work/$1-$version"
    VERSION=$version make_package "$1" amd64 "$work/$1-$version"
    echo "# another default" >>"$STAGE/packages/sluice.yaml"
  done
  cp "$work/$1-0.0.1"/*."$1" "$work/old.$1"
  cp "$work/$1-0.0.2"/*."$1" "$work/new.$1"
}

# with_events is a config whose agent has something to store without any other program: a device that does not answer
# gives readings that say so. The mark is what an upgrade must not lose.
with_events='version: 1
agent: { labels: { mark: kept } }
sources: { bus: { modbus: { connection: "tcp://127.0.0.1:1502", devices: { meter: { unit: 1, every: 1s, tags: { t: { read: input, at: 0, type: int16 } } } } } } }
uplinks: { central: { kafka: { brokers: [ "127.0.0.1:9092" ] } } }'

# use_it is a script for in_root: runs the agent as its user until an event is stored, and prints the events.
# shellcheck disable=SC2016 # expanded in the root
use_it='
ip link set lo up
mkdir -p /var/lib/sluice; chown sluice:sluice /var/lib/sluice; chmod 0700 /var/lib/sluice
as_user() { setpriv --reuid sluice --regid sluice --init-groups "$@"; }
as_user /usr/bin/sluice check >/dev/null
setpriv --reuid sluice --regid sluice --init-groups /usr/bin/sluice run 2>/tmp/log & agent=$!
for i in $(seq 100); do
  sleep 0.2
  as_user /usr/bin/sluice status >/tmp/status 2>&1 && [ -n "$(ls /var/lib/sluice/classes/process/ 2>/dev/null)" ] && break
done
[ "$i" != 100 ] || { cat /tmp/log /tmp/status >&2; exit 1; }
kill $agent; wait $agent || { cat /tmp/log >&2; exit 1; }
as_user /usr/bin/sluice buffer verify >/dev/null
as_user /usr/bin/sluice buffer export --class process'
