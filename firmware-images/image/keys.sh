#!/usr/bin/env bash
# Makes what update bundles are signed with: keys.sh FOLDER writes ca.pem, ca-key.pem, cert.pem and key.pem (P-256). A CA and
# not one self-signed certificate: the signing key can be replaced without touching a gateway. Keep ca-key.pem offline.
set -euo pipefail
[ $# = 1 ] || { echo "keys.sh FOLDER" >&2; exit 2; }
umask 077
mkdir -p "$1"
cd "$1"
[ ! -e ca.pem ] || { echo "keys.sh: $1/ca.pem is there already" >&2; exit 1; }
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca-key.pem -out ca.pem.new -days 7300 -subj "/O=Sluice/CN=Sluice update CA" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request -subj "/O=Sluice/CN=Sluice updates" 2>/dev/null
printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=emailProtection\nbasicConstraints=CA:FALSE\n' >extensions
openssl x509 -req -in request -CA ca.pem.new -CAkey ca-key.pem -CAcreateserial -days 1825 -extfile extensions -out cert.pem 2>/dev/null
rm -f request extensions ca.srl ca.pem.srl ./*.srl
mv ca.pem.new ca.pem
