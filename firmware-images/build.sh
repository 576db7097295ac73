#!/usr/bin/env bash
# Makes packages, OCI image, bills of materials, provenance and SHA256SUMS from the binaries of `make cross`, which has to
# be run before. Needs Go alone, no root, no container engine. `make packages` calls it and sets VERSION.
#
#   VERSION            of the release
#   SOURCE_COMMIT      commit in full; default: what git says
#   SOURCE_MODIFIED    true: the sources differ from it; default: what git says
#   SOURCE_DATE_EPOCH  every date in every artefact; default: the date of the commit
#   SLUICE_BUILDER     URI of the builder for the provenance
#   SLUICE_SIGN_KEY    minisign's secret key file; without it SHA256SUMS is not signed
#   DIST               output folder, default dist
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh
umask 022
export LC_ALL=C TZ=UTC VERSION=${VERSION:?is set by the Makefile}
release_version

source_state

stage() {
  local arch
  rm -rf "$STAGE" "$dist/image" "$dist/packages" "$dist/oci" "$dist/sbom" "$dist/provenance" "$dist/SHA256SUMS" "$dist/SHA256SUMS.minisig"
  mkdir -p "$STAGE/doc" "$STAGE/boms"
  for arch in "${arches[@]}"; do
    [ -x "$dist/sluice-linux-$arch" ] || fail "$dist/sluice-linux-$arch is missing: run make cross"
  done
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$STAGE/sluice-release" ./firmware-images/cmd/sluice-release
  go mod download # a build from Go's build cache does not bring the licences along
  release notices "${arches[@]}" >"$STAGE/copyright"
  { printf '\nApache License 2.0\n------------------\n\n'; cat LICENSE; } >>"$STAGE/copyright"
  cp docs/*.md CHANGELOG.md "$STAGE/doc/"
  # /var of OpenWrt is in memory.
  sed -e 's|^# agent:$|agent:|' -e 's|^#   data_dir: /var/lib/sluice .*|  data_dir: /srv/sluice   # /var is lost at each boot|' \
    -e 's|^# classes: .*|classes:|' -e 's|^#   process: .*|  process: { keep: { bytes: 16MiB }, when_full: drop_oldest }   # a small flash|' \
    firmware-images/packages/sluice.yaml >"$STAGE/sluice-openwrt.yaml"
  # What git and an editor leave open goes into packages: times, and modes beyond the executable bit.
  cp -r firmware-images/packages "$STAGE/"
  find "$STAGE/packages" "$STAGE/doc" -type d -exec chmod 755 {} +
  find "$STAGE/packages" "$STAGE/doc" -type f -exec chmod 644 {} +
  find "$STAGE" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# openwrt prints the targets of OpenWrt that run the binary. Those without floating point in hardware are not among them, nor those of riscv64.
openwrt() {
  case $1 in
  armv6) echo arm_arm1176jzf-s_vfp ;;
  armv7) echo arm_cortex-a7_neon-vfpv4 arm_cortex-a9_vfpv3-d16 arm_cortex-a15_neon-vfpv4 ;;
  arm64) echo aarch64_generic aarch64_cortex-a53 aarch64_cortex-a72 ;;
  amd64) echo x86_64 ;;
  esac
}

# Each binary has a folder of its own, since Debian calls both armv6 and armv7 armhf.
make_packages() {
  local arch name target
  for arch in "${arches[@]}"; do
    BINARY=$(realpath "$dist/sluice-linux-$arch")
    export BINARY
    mkdir -p "$dist/packages/$arch"
    name=${arch/armv/arm}
    for format in deb rpm apk; do make_package "$format" "$name" "$dist/packages/$arch"; done
    for target in $(openwrt "$arch"); do make_package ipk "$target" "$dist/packages/$arch"; done
  done
}

# The binaries of one source have the same modules, as a rule: then one list of them, with licences, stands for all.
list_modules() {
  local arch modules seen=
  for arch in "${arches[@]}"; do
    modules=$(go version -m "$dist/sluice-linux-$arch" | sed -n '/^\tdep\t/p')
    [ "$modules" != "$seen" ] || continue
    seen=$modules
    GOOS=linux GOARCH=${arch/armv?/arm} "$gomod_program" bin -json -std -licenses -version "$VERSION" -noserial -notimestamp -short-purls \
      -output "$STAGE/boms/$arch.cdx.json" "$dist/sluice-linux-$arch" 2>"$STAGE/boms/$arch.log" ||
      fail "cyclonedx-gomod failed: $(cat "$STAGE/boms/$arch.log")"
  done
}

attest() {
  local arch artefacts=() path
  for arch in "${arches[@]}"; do artefacts+=("$arch=sluice-linux-$arch"); done
  while read -r path; do
    path=${path#"$dist/"}
    arch=${path#packages/}
    artefacts+=("${arch%%/*}=$path")
  done < <(packages)
  release attest -boms "$STAGE/boms" "${artefacts[@]}" "$(IFS=,; echo "${arches[*]}")=oci/index.json"
}

gomod_program=$(go_tool "$gomod" cmd/cyclonedx-gomod)
stage
make_packages
release oci -roots-der "$(roots_der)"
list_modules
attest
firmware-images/sign.sh
say "$(packages | wc -l) packages, OCI image of ${#arches[@]} platforms, $(wc -l <"$dist/SHA256SUMS") lines of SHA256SUMS in $dist/"
