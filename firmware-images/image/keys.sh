#!/usr/bin/env bash
# Makes what update bundles are signed with: keys.sh FOLDER writes ca.pem, ca-key.pem, cert.pem and key.pem (P-256). A CA and
# not one self-signed certificate: the signing key can be replaced without touching a gateway. Keep ca-key.pem offline.
# Where ca.pem and ca-key.pem are there and cert.pem and key.pem are not, it makes a new signing key below that CA. It overwrites nothing.
set -euo pipefail
[ $# = 1 ] || { echo "keys.sh FOLDER" >&2; exit 2; }
umask 077
mkdir -p "$1"
cd "$1"
trap 'rm -f errors request extensions ca.pem.new ca-key.pem.new cert.pem.new key.pem.new' EXIT
# tool runs openssl, which is quiet unless it fails.
tool() { openssl "$@" 2>errors || { echo "keys.sh: openssl $1: $(cat errors)" >&2; exit 1; }; }
for file in cert.pem key.pem; do
  [ ! -e $file ] || { echo "keys.sh: $1/$file is there already; move cert.pem and key.pem away for a new signing key" >&2; exit 1; }
done
if [ ! -e ca.pem ] && [ ! -e ca-key.pem ]; then
  tool req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca-key.pem.new -out ca.pem.new -days 7300 -subj "/O=Sluice/CN=Sluice update CA"
  mv ca-key.pem.new ca-key.pem
  mv ca.pem.new ca.pem
fi
for file in ca.pem ca-key.pem; do
  [ -s $file ] || { echo "keys.sh: $1/$file is missing, and the other half of the CA is there" >&2; exit 1; }
done
[ "$(tool x509 -in ca.pem -noout -pubkey)" = "$(tool pkey -in ca-key.pem -pubout)" ] || { echo "keys.sh: $1/ca-key.pem is not the key of $1/ca.pem" >&2; exit 1; }
tool req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem.new -out request -subj "/O=Sluice/CN=Sluice updates"
printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=emailProtection\nbasicConstraints=CA:FALSE\n' >extensions
serial=0x$(tool rand -hex 16)
tool x509 -req -in request -CA ca.pem -CAkey ca-key.pem -set_serial "$serial" -days 1825 -extfile extensions -out cert.pem.new
mv key.pem.new key.pem
mv cert.pem.new cert.pem
