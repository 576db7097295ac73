#!/usr/bin/env bash
# Writes dist/SHA256SUMS over every artefact below dist, and signs it with minisign where SLUICE_SIGN_KEY names a secret
# key. The statement beside the signature names VERSION, so that an old list does not pass for a new one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=firmware-images/lib.sh
. firmware-images/lib.sh

(cd "$dist" && find . -type f ! -path './.*' ! -name 'SHA256SUMS*' -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum >SHA256SUMS.new &&
  mv SHA256SUMS.new SHA256SUMS)
rm -f "$dist/SHA256SUMS.minisig"
if [ -z "${SLUICE_SIGN_KEY:-}" ]; then
  say "$dist/SHA256SUMS is not signed: SLUICE_SIGN_KEY names no key"
  exit
fi
command -v minisign >/dev/null || need minisign
minisign -S -s "$SLUICE_SIGN_KEY" -m "$dist/SHA256SUMS" -t "sluice ${VERSION:?}" >/dev/null
say "$dist/SHA256SUMS.minisig"
