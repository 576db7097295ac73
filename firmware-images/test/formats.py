#!/usr/bin/env python3
"""Takes apk and ipk packages apart the way their package managers do, where Debian has neither apk nor opkg.

usage: formats.py FILE...; prints a line for each package, exits 1 at the first that is not as it should be.
"""
import gzip
import hashlib
import io
import sys
import tarfile
import zlib

# The names that Alpine and OpenWrt have for what each folder of dist/packages holds.
ALPINE = {"armv6": "armhf", "armv7": "armv7", "arm64": "aarch64", "riscv64": "riscv64", "amd64": "x86_64"}
OPENWRT = {"armv6": "arm_", "armv7": "arm_", "arm64": "aarch64_", "amd64": "x86_64"}


def check(ok, text):
    if not ok:
        raise ValueError(text)


def gzip_streams(data):
    """Yields each gzip stream of a file of several: as compressed, and what it holds."""
    while data:
        reader = zlib.decompressobj(wbits=31)
        raw = reader.decompress(data) + reader.flush()
        yield data[: len(data) - len(reader.unused_data)], raw
        data = reader.unused_data


def members(raw, tail=True):
    """The files of a tar archive by name; apk's control part has no end mark, which tar readers wait for."""
    raw = raw if tail else raw + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return {m.name.removeprefix("./"): (m, tar.extractfile(m).read() if m.isfile() else b"") for m in tar}


def fields(text, separator):
    return dict(line.split(separator, 1) for line in text.decode().splitlines() if separator in line and not line.startswith(" "))


def common(files, scripts):
    binary, _ = files["usr/bin/sluice"]
    check(binary.mode == 0o755, f"usr/bin/sluice has mode {binary.mode:o}")
    check(files["etc/sluice/sluice.yaml"][0].mode in (0o640, 0o600), "others can read the config")
    check(files["etc/init.d/sluice"][0].mode == 0o755, "the init script cannot be run")
    check(len(files["usr/share/doc/sluice/copyright"][1]) > 20000, "the licence texts are missing")
    for name, body in scripts.items():
        check(body.startswith(b"#!/bin/sh\n"), f"{name} does not begin with #!/bin/sh")


def apk(data, folder):
    streams = list(gzip_streams(data))
    check(len(streams) == 2, f"{len(streams)} parts, not control and data (unsigned)")
    control, files = members(streams[0][1], tail=False), members(streams[1][1])
    info = fields(control[".PKGINFO"][1], " = ")
    check(info["pkgname"] == "sluice" and info["arch"] == ALPINE[folder], f"is {info['pkgname']} for {info['arch']}")
    for line in control[".PKGINFO"][1].decode().splitlines():
        check(line.startswith("#") or not line or " = " in line, f"line of .PKGINFO without a key: {line}")
    check(info["datahash"] == hashlib.sha256(streams[1][0]).hexdigest(), "datahash is not that of the data")
    scripts = {n: body for n, (_, body) in control.items() if n != ".PKGINFO"}
    check(set(scripts) == {".pre-install", ".pre-upgrade", ".post-upgrade", ".pre-deinstall"}, f"scripts {sorted(scripts)}")
    for name, (member, body) in files.items():
        if member.isfile():
            check(member.pax_headers.get("APK-TOOLS.checksum.SHA1") == hashlib.sha1(body).hexdigest(), f"checksum of {name}")
    check(files["etc/sluice/sluice.yaml"][0].gname == "sluice", "the config does not belong to the group")
    common(files, scripts)
    return info["arch"]


def ipk(data, folder):
    outer = members(gzip.decompress(data))
    check(outer["debian-binary"][1] == b"2.0\n" and list(outer)[0] == "debian-binary", "debian-binary does not come first with 2.0")
    control, files = members(gzip.decompress(outer["control.tar.gz"][1])), members(gzip.decompress(outer["data.tar.gz"][1]))
    info = fields(control["control"][1], ": ")
    check(info["Package"] == "sluice" and info["Architecture"].startswith(OPENWRT[folder]), f"is {info['Package']} for {info['Architecture']}")
    check(info["Require-User"] == "sluice:sluice sluice:dialout", "Require-User is missing")
    check(control["conffiles"][1].decode().split() == ["/etc/sluice/sluice.yaml"], "the config is no conffile")
    check(b"data_dir: /srv/sluice" in files["etc/sluice/sluice.yaml"][1], "the buffer would lie in memory")
    check(files["etc/init.d/sluice"][1].startswith(b"#!/bin/sh /etc/rc.common\n"), "the init script is not OpenWrt's")
    common(files, {n: body for n, (_, body) in control.items() if n in ("postinst", "prerm")})
    return info["Architecture"]


def main():
    for path in sys.argv[1:]:
        folder = path.split("/")[-2]
        with open(path, "rb") as f:
            data = f.read()
        try:
            arch = (apk if path.endswith(".apk") else ipk)(data, folder)
        except (ValueError, KeyError, tarfile.TarError, zlib.error) as e:
            sys.exit(f"{path}: {type(e).__name__}: {e}")
        print(f"{path}: sound, for {arch}")


main()
