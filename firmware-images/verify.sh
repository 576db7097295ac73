#!/usr/bin/env bash
# Checks what `make packages` has made, with the tools of those who will use it: dpkg, rpm, skopeo, a CycloneDX validator,
# minisign, systemd-analyze, qemu. Prints a verdict a line, ends at the first that is bad. Installs what it needs (Debian,
# root); leaves nothing behind but that and its cache.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh

readonly worst_exposure=1.5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=${VERSION:?is set by the Makefile}

# Names of the architectures, by folder of dist/packages.
declare -A deb_arch=([armv6]=armhf [armv7]=armhf [arm64]=arm64 [riscv64]=riscv64 [amd64]=amd64)
declare -A rpm_arch=([armv6]=armv6hl [armv7]=armv7hl [arm64]=aarch64 [riscv64]=riscv64 [amd64]=x86_64)

scripts() {
  local files
  # lib.sh, root.sh and parts.sh are read where they are sourced.
  mapfile -t files < <(find firmware-images -name '*.sh' ! -name lib.sh ! -name root.sh ! -name parts.sh)
  shellcheck -x "${files[@]}" agent/e2e/*.sh .ci/run firmware-images/packages/deb/* firmware-images/packages/apk/p* firmware-images/packages/ipk/p* \
    firmware-images/packages/ipk/sluice.init
  shellcheck -s sh firmware-images/packages/rpm/*
  shellcheck -s sh firmware-images/image/boot/init firmware-images/image/root/usr/lib/sluice/* firmware-images/image/root/usr/sbin/fsck
  # The variables of an OpenRC script are read by the program that runs it.
  shellcheck -s sh -e SC2034,SC2154 firmware-images/packages/apk/sluice.initd
  say "shellcheck: scripts and maintainer scripts are clean"
}

versions() {
  local name
  for name in "v$version" latest 1.2.3.4; do
    if VERSION=$name DIST=$work/none firmware-images/build.sh >"$work/version" 2>&1 || ! grep -q "$name is no version" "$work/version"; then
      fail "version $name: $(cat "$work/version")"
    fi
  done
  say "versions that gateways could not compare are refused"
}

config() {
  local file
  for file in firmware-images/packages/sluice.yaml "$STAGE/sluice-openwrt.yaml"; do
    "$dist/sluice-linux-amd64" check -c "$file" >/dev/null || fail "$file does not pass: $("$dist/sluice-linux-amd64" check -c "$file" 2>&1)"
    if grep -E '^[^#]*(servers|brokers|connection)' "$file" | grep -qv '127\.0\.0\.1'; then fail "$file connects to other machines"; fi
  done
  say "default config: passes sluice check, reaches loopback only"
}

manual() {
  local command
  mandoc -T lint -W error firmware-images/packages/sluice.8 >"$work/man" || fail "man page: $(cat "$work/man")"
  for command in $("$dist/sluice-linux-amd64" -h 2>/dev/null | awk '/^  [a-z]/ { print $1 }'); do
    sed 's/\\-/-/g' firmware-images/packages/sluice.8 | grep -qw -- "$command" || fail "the man page lacks the command $command"
  done
  say "man page: clean, names every command"
}

unit() {
  local exposure
  exposure=$(systemd-analyze security --offline=true --no-pager firmware-images/packages/sluice.service | sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\).*/\1/p')
  awk -v e="$exposure" -v worst="$worst_exposure" 'BEGIN { exit !(e != "" && e <= worst) }' || fail "exposure of the unit is $exposure ($worst_exposure at most)"
  sed "s|/usr/bin/sluice|$(realpath "$dist/sluice-linux-amd64")|" firmware-images/packages/sluice.service >"$work/sluice.service"
  systemd-analyze verify --man=no "$work/sluice.service" >"$work/unit" 2>&1 || fail "unit: $(cat "$work/unit")"
  ! grep -q sluice "$work/unit" || fail "unit: $(cat "$work/unit")"
  say "systemd-analyze: the unit is valid, exposure $exposure ($worst_exposure at most)"
}

debs() {
  local arch file
  for arch in "${arches[@]}"; do
    file=$(echo "$dist/packages/$arch"/*.deb)
    [ "$(dpkg-deb -f "$file" Package Version Architecture | tr '\n' ' ')" = "Package: sluice Version: $version Architecture: ${deb_arch[$arch]} " ] ||
      fail "$file: $(dpkg-deb -f "$file")"
    dpkg-deb --fsys-tarfile "$file" | tar -xO ./usr/bin/sluice | cmp -s - "$dist/sluice-linux-$arch" || fail "$file holds another binary"
  done
  say "dpkg-deb: ${#arches[@]} debs hold their binaries, for$(for arch in "${arches[@]}"; do echo -n " ${deb_arch[$arch]}"; done)"
}

rpms() {
  local arch file
  for arch in "${arches[@]}"; do
    file=$(echo "$dist/packages/$arch"/*.rpm)
    rpm -K --nosignature "$file" >"$work/rpm" 2>&1 || fail "rpm -K: $(cat "$work/rpm")"
    [ "$(rpm -qp --nosignature --qf '%{NAME} %{VERSION} %{ARCH}' "$file")" = "sluice $version ${rpm_arch[$arch]}" ] || fail "$file: $(rpm -qpi "$file")"
    [ "$(rpm -qpc --nosignature "$file")" = /etc/sluice/sluice.yaml ] || fail "$file: config files $(rpm -qpc "$file")"
    rm -rf "${work:?}/usr"
    { rpm2cpio "$file" || true; } | (cd "$work" && cpio -id --quiet --no-absolute-filenames '*usr/bin/sluice' 2>/dev/null) # rpm2cpio 4.18 ends with 1
    cmp -s "$work/usr/bin/sluice" "$dist/sluice-linux-$arch" || fail "$file holds another binary"
  done
  say "rpm -K, -qp: ${#arches[@]} rpms hold their binaries, for$(for arch in "${arches[@]}"; do echo -n " ${rpm_arch[$arch]}"; done)"
}

image() {
  local platform digest layers layer manifest
  skopeo copy --quiet --all "oci:$dist/oci:$version" "dir:$work/image" || fail "skopeo cannot copy the image: a digest is wrong"
  for platform in amd64 arm64 arm riscv64; do
    skopeo inspect --override-os linux --override-arch "$platform" "oci:$dist/oci:$version" >"$work/inspect" || fail "skopeo inspect $platform"
    [ "$(jq -r .Architecture "$work/inspect")" = "$platform" ] || fail "skopeo inspect $platform: $(cat "$work/inspect")"
  done
  # By digest, since skopeo cannot be told to take armv6 from an index.
  skopeo inspect --raw "oci:$dist/oci:$version" >"$work/index"
  for arch in "${arches[@]}"; do
    platform=$(case $arch in armv?) echo "arm/${arch#arm}" ;; *) echo "$arch/" ;; esac)
    digest=$(jq -r --arg p "$platform" '.manifests[] | select(.platform.architecture + "/" + (.platform.variant // "") == $p) | .digest' "$work/index")
    manifest=$dist/oci/blobs/${digest/:/\/}
    jq -e '.config.User == "65532:65532" and .config.Entrypoint == ["/usr/bin/sluice"]' "$dist/oci/blobs/$(jq -r '.config.digest | sub(":"; "/")' "$manifest")" >/dev/null ||
      fail "image for $arch: user or entry point"
    layers=$(jq -r '.layers[].digest | sub(":"; "/")' "$manifest")
    rm -rf "$work/root" && mkdir "$work/root"
    for layer in $layers; do tar -xzf "$dist/oci/blobs/$layer" -C "$work/root"; done
    cmp -s "$work/root/usr/bin/sluice" "$dist/sluice-linux-$arch" || fail "image for $arch holds another binary"
  done
  [ "$(grep -c 'BEGIN CERTIFICATE' "$work/root/etc/ssl/certs/ca-certificates.crt")" -gt 100 ] || fail "the image lacks CA certificates"
  # arches ends with amd64, so that this runs.
  (cd / && chroot --userspec=65532:65532 "$work/root" /usr/bin/sluice version) | grep -q "^sluice $version " || fail "the image's agent does not run"
  say "skopeo inspect, copy: platforms $(jq -c '[.manifests[].platform | .architecture + (.variant // "")]' "$work/index"), user 65532, the amd64 one runs"
}

# With a key that ends with this run.
signature() {
  local copy=$work/dist
  cp -al "$dist" "$copy"
  rm -f "$copy"/SHA256SUMS*
  for key in own foreign; do minisign -G -W -f -p "$work/$key.pub" -s "$work/$key.key" >/dev/null; done
  DIST=$copy SLUICE_SIGN_KEY=$work/own.key firmware-images/sign.sh >/dev/null
  cmp -s "$copy/SHA256SUMS" "$dist/SHA256SUMS" || fail "SHA256SUMS is not what was built"
  minisign -V -q -p "$work/own.pub" -m "$copy/SHA256SUMS" || fail "the signature does not hold"
  grep -q "^trusted comment: sluice $version\$" "$copy/SHA256SUMS.minisig" || fail "the signature does not name the version"
  (cd "$copy" && sha256sum --quiet --strict -c SHA256SUMS) || fail "SHA256SUMS does not fit"
  ! minisign -V -q -p "$work/foreign.pub" -m "$copy/SHA256SUMS" 2>/dev/null || fail "a foreign key passes"
  sed -i '1s/^./x/' "$copy/SHA256SUMS"
  ! minisign -V -q -p "$work/own.pub" -m "$copy/SHA256SUMS" 2>/dev/null || fail "a changed SHA256SUMS passes"
  say "minisign: signed with a throwaway key, verified; a foreign key and a changed list are refused; $(wc -l <"$dist/SHA256SUMS") files fit"
}

need dpkg rpm cpio skopeo minisign qemu-user shellcheck mmdebstrap mandoc systemd python3-venv jq iproute2
scripts
versions
config
manual
unit
debs
rpms
/usr/bin/python3 firmware-images/test/formats.py "$dist"/packages/*/*.apk "$dist"/packages/*/*.ipk >"$work/formats" || fail "apk, ipk"
say "apk, ipk: $(grep -c sound "$work/formats") packages taken apart, sound (apk and opkg themselves are not in Debian)"
image
attestations
signature
firmware-images/test/arm.sh
firmware-images/test/deb.sh
firmware-images/test/rpm.sh
say "all is well"
