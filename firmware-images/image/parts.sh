# shellcheck shell=bash disable=SC2154 # lib.sh and the caller set the variables
# The steps of build.sh, which the tests use for images of their own. It is sourced after lib.sh; $work is a folder for
# what is made.

readonly image=firmware-images/image
readonly image_suite=trixie
readonly esp_mib=64 slot_mib=96 data_mib=256
# Fixed, so that two builds are the same. The data partition is found by its name.
readonly disk_id=5C1CE000-0000-4000-8000-000000000000 data_id=5c1ce000-0000-4000-8000-00000000000d esp_id=5C1CE001

# image_tools installs what the steps need.
image_tools() { need mmdebstrap qemu-user squashfs-tools mtools dosfstools rauc e2fsprogs fdisk kmod cpio xz-utils openssl; }

# keys sets UPDATE_CA, UPDATE_CERT and UPDATE_KEY.
keys() {
  local own=$cache/update-keys
  UPDATE_CA=${SLUICE_UPDATE_CA:-$own/ca.pem} UPDATE_CERT=${SLUICE_UPDATE_CERT:-$own/cert.pem} UPDATE_KEY=${SLUICE_UPDATE_KEY:-$own/key.pem}
  if [ -z "${SLUICE_UPDATE_CA:-}${SLUICE_UPDATE_CERT:-}${SLUICE_UPDATE_KEY:-}" ]; then
    [ -s "$own/cert.pem" ] || $image/keys.sh "$own"
  elif [ -z "${SLUICE_UPDATE_CA:-}" ] || [ -z "${SLUICE_UPDATE_CERT:-}" ] || [ -z "${SLUICE_UPDATE_KEY:-}" ]; then
    fail "SLUICE_UPDATE_CA, SLUICE_UPDATE_CERT and SLUICE_UPDATE_KEY go together"
  fi
}

# base unpacks Debian into $work/base, and the debs of kernel and boot loader below $work/parts. $work/debs lists all of
# them: name, version, architecture, SHA-256.
base() {
  local tarball=${SLUICE_IMAGE_BASE:-}
  if [ -z "$tarball" ]; then
    tarball=$cache/image-base.tar
    # The hooks' $1 is the root.
    # shellcheck disable=SC2016
    mmdebstrap --quiet --mode=root --variant=extract --arch=arm64 --skip=check/qemu --aptopt='APT::Install-Recommends "false"' \
      --include="$(sed '/^#/d' $image/packages.list | tr -s ' \n' ,)" \
      --extract-hook='set -e; mkdir "$1/.debs"; cp "$1"/var/cache/apt/archives/*.deb "$1/.debs/"; mkdir "$1/.debs/parts"; cd "$1/.debs/parts"
        export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
        kernel=$(apt-cache depends linux-image-arm64 | sed -n "s/^ *Depends: \(linux-image-[0-9].*\)/\1/p")
        apt-get -q -q -o APT::Sandbox::User=root download "$kernel" grub-efi-arm64-bin grub-common liblzma5 libdevmapper1.02.1' \
      $image_suite "$tarball.new.tar" >"$work/mmdebstrap.log" 2>&1 || fail "mmdebstrap failed: $(tail -n 5 "$work/mmdebstrap.log")"
    mv "$tarball.new.tar" "$tarball"
  fi
  mkdir -p "$work/base" "$work/parts"
  tar -C "$work/base" -xf "$tarball" --exclude='./dev/*'
  local deb
  for deb in "$work"/base/.debs/*.deb "$work"/base/.debs/parts/{linux,grub}*.deb; do
    # shellcheck disable=SC2016 # dpkg-deb expands it
    printf '%s %s\n' "$(dpkg-deb -W --showformat='${Package} ${Version} ${Architecture}' "$deb")" "$(sha256sum <"$deb" | cut -d ' ' -f 1)"
  done | sort >"$work/debs"
  for deb in "$work"/base/.debs/parts/*.deb; do dpkg-deb -x "$deb" "$work/parts"; done
  rm -rf "$work/base/.debs"
}

# arm64 ROOT PROGRAM… runs a program of Debian's arm64.
arm64() { qemu-aarch64 -L "$1" -E "LD_LIBRARY_PATH=$1/usr/lib/aarch64-linux-gnu:$work/parts/usr/lib/aarch64-linux-gnu" "${@:2}"; }

# tree ROOT makes the root of a slot.
tree() {
  cp -a "$work/base" "$1"
  configure "$1"
  trim "$1"
  install_agent "$1"
  enable "$1"
  kernel "$1"
}

# configure does what the packages' maintainer scripts would have done, had they run.
configure() {
  local root=$1 program
  rm -rf "$root/var/run" "$root/var/lock"
  ln -s /run "$root/var/run"
  ln -s /run/lock "$root/var/lock"
  sed 's/^\([^:]*\):\*:/\1:x:/' "$root/usr/share/base-passwd/passwd.master" >"$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  sed 's/:.*/:*:19000:0:99999:7:::/' "$root/etc/passwd" >"$root/etc/shadow" # nobody can log in
  chmod 0640 "$root/etc/shadow"
  cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
  for program in $(arm64 "$root" "$root/usr/bin/busybox" --list); do
    [ -e "$root/usr/bin/$program" ] || [ -L "$root/usr/bin/$program" ] || [ -e "$root/usr/sbin/$program" ] || [ -L "$root/usr/sbin/$program" ] ||
      ln -s busybox "$root/usr/bin/$program"
  done
  cp -r $image/root/. "$root/"
  find $image/root -mindepth 1 -printf '%P\n' | while read -r program; do
    if [ -d "$root/$program" ] || [ -x "$root/$program" ]; then chmod 755 "$root/$program"; else chmod 644 "$root/$program"; fi
  done
  arm64 "$root" "$root/usr/bin/systemd-sysusers" --root="$root" >"$work/sysusers.log" 2>&1 || fail "systemd-sysusers: $(cat "$work/sysusers.log")"
  rm -f "$root"/etc/*- "$root/etc/.pwd.lock"
  : >"$root/etc/machine-id"
  : >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
  ln -sfn /run/systemd/resolve/resolv.conf "$root/etc/resolv.conf"
  printf '%s\n' "$VERSION" >"$root/usr/lib/sluice/version.txt"
  cp "$UPDATE_CA" "$root/etc/rauc/ca.cert.pem"
  chmod 644 "$root/etc/rauc/ca.cert.pem"
  mkdir -p "$root/data" "$root/boot/efi"
}

# trim removes what a gateway has no use for. The licences of all packages stay.
trim() {
  local root=$1
  find "$root/usr/share/doc" ! -type d ! -name copyright -delete
  find "$root/usr/share/doc" -type d -empty -delete
  rm -rf "$root"/usr/share/{perl5,man,locale,bash-completion,zsh,zoneinfo,info,bug,lintian,polkit-1,debconf,gcc,gdb,doc-base,factory,mime,openssl} \
    "$root/usr/lib/udev/hwdb.d" "$root/usr/lib/pcrlock.d" "$root"/usr/lib/aarch64-linux-gnu/{gconv,perl-base,ossl-modules,engines-3} \
    "$root"/usr/lib/{valgrind,binfmt.d,ssl} "$root"/usr/bin/{openssl,dbus-run-session,busctl,systemd-analyze,systemd-cgtop,bootctl,kernel-install} \
    "$root"/usr/share/ca-certificates "$root"/etc/{apt,dpkg,cron.d,rc?.d,ssh,skel,update-motd.d} "$root"/etc/init.d \
    "$root"/var/{lib/apt,lib/dpkg,backups} "$root"/usr/lib/systemd/boot \
    "$root"/usr/lib/aarch64-linux-gnu/{libdb-5.3.so,libbrotlienc.so.*,sasl2} "$root"/usr/lib/systemd/systemd-{logind,pcrlock,measure,storagetm,bsod} \
    "$root"/usr/sbin/{debugfs,mke2fs,mkfs.ext*,e4crypt,filefrag,badblocks,update-passwd}
  find "$root/var/cache" "$root/var/log" "$root/boot" "$root/tmp" "$root/run" -mindepth 1 ! -path "$root/boot/efi" -delete
}

# install_agent unpacks the deb.
install_agent() {
  local deb root=$1
  deb=$(echo "$dist"/packages/arm64/sluice_*_arm64.deb)
  [ -f "$deb" ] || fail "$dist/packages/arm64/ has no deb: run make packages"
  dpkg-deb -x "$deb" "$root"
  mkdir -p "$root/usr/share/sluice"
  mv "$root/etc/sluice/sluice.yaml" "$root/usr/share/sluice/sluice.yaml"
  chmod 644 "$root/usr/share/sluice/sluice.yaml"
  rm -rf "$root/usr/share/man"
}

# enable says what starts.
enable() {
  local unit wants=$1/etc/systemd/system/multi-user.target.wants
  mkdir -p "$wants" "$1/etc/systemd/system/sysinit.target.wants" "$1/etc/systemd/system/network-online.target.wants" "$1/etc/systemd/system/sockets.target.wants"
  for unit in sluice.service sluice-provision.service sluice-trial.service sluice-restart.path systemd-networkd.service; do
    ln -sf "/usr/lib/systemd/system/$unit" "$wants/"
  done
  for unit in systemd-timesyncd systemd-resolved; do ln -sf "/usr/lib/systemd/system/$unit.service" "$1/etc/systemd/system/sysinit.target.wants/"; done
  ln -sf /usr/lib/systemd/system/dbus.socket "$1/etc/systemd/system/sockets.target.wants/"
  ln -sf /usr/lib/systemd/system/multi-user.target "$1/etc/systemd/system/default.target"
  # No logins, no package manager, nothing that writes below /etc or /usr.
  for unit in getty@tty1.service serial-getty@.service console-getty.service getty.target systemd-logind.service systemd-firstboot.service \
    systemd-hwdb-update.service systemd-update-done.service systemd-journal-catalog-update.service systemd-machine-id-commit.service \
    ldconfig.service e2scrub_reap.service e2scrub_all.timer rauc-mark-good.service systemd-pstore.service systemd-networkd-wait-online.service; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
  done
}

# modules VERSION prints the files of the modules of $image/modules.list and of what they need.
modules() {
  local name
  sed 's/#.*//' $image/modules.list | tr -s ' \n' '\n' | sed '/^$/d' | while read -r name; do
    case $name in
    */) find "$work/parts/usr/lib/modules/$1/kernel/$name" -name '*.ko*' -exec basename {} \; | sed 's/\.ko.*//' ;;
    *) echo "$name" ;;
    esac
  done | needed "$1" | sort -u
}

# needed VERSION reads names of modules and prints their files and those of what they need, in the order of loading.
needed() {
  local name
  while read -r name; do
    modprobe -d "$work/parts/usr" -S "$1" --show-depends "$name" 2>/dev/null || echo "$name" >>"$work/missing"
  done | sed -n 's/^insmod \(.*\.ko\(\.[a-z]*\)\{0,1\}\).*/\1/p' | awk '!seen[$0]++'
}

# kernel puts kernel, modules and initramfs into the root.
kernel() {
  local root=$1 version file start=$work/initramfs modules=$1/usr/lib/modules
  version=$(basename "$work"/parts/usr/lib/modules/*)
  cp "$work/parts/boot/vmlinuz-$version" "$root/boot/vmlinuz"
  cp $image/boot/slot.cfg "$root/boot/slot.cfg"
  for file in "$work"/parts/usr/share/doc/{linux-image,grub}*; do
    [ ! -f "$file/copyright" ] || install -D -m 644 "$file/copyright" "$root/usr/share/doc/$(basename "$file")/copyright"
  done
  depmod -b "$work/parts/usr" "$version"
  rm -f "$work/missing"
  mkdir -p "$modules/$version"
  modules "$version" | while read -r file; do
    install -D -m 644 "$file" "$modules/$version/${file#*"/modules/$version/"}"
  done
  cp "$work/parts/usr/lib/modules/$version"/modules.{builtin,order,builtin.modinfo} "$modules/$version/"
  depmod -b "$root/usr" "$version"

  rm -rf "$start"
  mkdir -p "$start"/{bin,lib/modules,proc,sys,dev,new,data}
  cp "$root/usr/bin/busybox" "$start/bin/"
  arm64 "$root" "$root/usr/bin/busybox" --list | grep -v '^busybox$' | xargs -I{} ln -s busybox "$start/bin/{}"
  install -m 755 $image/boot/init "$start/init"
  printf '%s\n' virtio_mmio virtio_blk virtio_scsi sd_mod usb-storage nvme ahci xhci-pci sdhci-pci sdhci-acpi sdhci-iproc bcm2835 squashfs ext4 i6300esb bcm2835_wdt sbsa_gwdt softdog |
    needed "$version" | while read -r file; do
    xz -dc "$file" >"$start/lib/modules/$(basename "$file" .xz)"
    basename "$file" .ko.xz
  done >"$start/lib/modules/list"
  [ ! -s "$work/missing" ] || fail "the kernel lacks these modules: $(sort -u "$work/missing" | tr '\n' ' ')"
  find "$start" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  (cd "$start" && find . -print0 | sort -z | cpio --quiet --null -o -H newc --reproducible -R 0:0 | gzip -9n) >"$root/boot/initrd"
}

# squash ROOT FILE COMPRESSION makes the image of a slot. GRUB reads the kernel from it: gzip or xz. mksquashfs takes every time
# from SOURCE_DATE_EPOCH.
squash() {
  local options=(-comp "$3" -b 256K)
  [ "$3" != gzip ] || options+=(-Xcompression-level 1)
  rm -f "$2"
  mksquashfs "$1" "$2" "${options[@]}" -noappend -all-root -no-xattrs -no-progress \
    -quiet >"$work/mksquashfs.log" 2>&1 || fail "mksquashfs: $(cat "$work/mksquashfs.log")"
}

# environment NAME=VALUE… prints a GRUB environment block of 1024 bytes.
environment() {
  local block
  block=$(printf '# GRUB Environment Block\n'; printf '%s\n' "$@")
  printf '%s\n' "$block"
  head -c $((1023 - ${#block})) /dev/zero | tr '\000' '#'
}

# disk SQUASHFS FILE makes the whole disk: EFI partition, two slots, which are the same, data.
disk() {
  local esp=$work/esp data=$work/data start=1 n=0 name
  rm -rf "$esp" "$data" "$2"
  mkdir -p "$esp/EFI/BOOT" "$data"/{etc/sluice,lib/rauc,lib/sluice,lib/systemd}
  arm64 "$work/base" "$work/parts/usr/bin/grub-mkimage" -O arm64-efi -d "$work/parts/usr/lib/grub/arm64-efi" -c $image/boot/early.cfg -p '' -o "$esp/EFI/BOOT/BOOTAA64.EFI" \
    part_gpt fat squash4 xzio gzio loadenv test echo search search_label linux regexp normal configfile reboot sleep
  cp $image/boot/grub.cfg "$esp/"
  for n in 1 2; do environment begin=1 good=A trial=none id=0 bad=none "floor=$VERSION" end=1 >"$esp/boot$n.env"; done
  environment of=0 tries=0 >"$esp/tries.env"
  chown -R 880:880 "$data/lib/sluice"
  chgrp 880 "$data/etc/sluice"
  chmod 0750 "$data/etc/sluice"
  chmod 0700 "$data/lib/sluice" "$data/lib/rauc"
  find "$esp" "$data" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

  truncate -s $(((2 + esp_mib + 2 * slot_mib + data_mib) << 20)) "$2"
  {
    printf 'label: gpt\nlabel-id: %s\n' "$disk_id"
    n=0
    for name in esp=$esp_mib rootfs-a=$slot_mib rootfs-b=$slot_mib data=$data_mib; do
      n=$((n + 1))
      printf 'start=%dMiB, size=%dMiB, type=%s, name=%s, uuid=%s\n' "$start" "${name#*=}" "$([ $n = 1 ] && echo U || echo L)" "${name%=*}" "${disk_id%0}$n"
      start=$((start + ${name#*=}))
    done
  } | sfdisk --quiet "$2"
  filesystem_esp "$esp" "$work/esp.img"
  filesystem_data "$data" "$work/data.img"
  start=1
  for name in "$work/esp.img=$esp_mib" "$1=$slot_mib" "$1=$slot_mib" "$work/data.img=$data_mib"; do
    [ "$(stat -c %s "${name%=*}")" -le $((${name#*=} << 20)) ] || fail "${name%=*} does not fit into ${name#*=} MiB"
    dd if="${name%=*}" of="$2" bs=1M seek="$start" conv=notrunc,sparse status=none
    start=$((start + ${name#*=}))
  done
}

filesystem_esp() {
  rm -f "$2"
  truncate -s ${esp_mib}M "$2"
  mkfs.vfat --invariant -F 32 -n SLUICE-ESP -i $esp_id "$2" >/dev/null
  (cd "$1" && mcopy -s -m -i "$2" EFI grub.cfg boot1.env boot2.env tries.env ::)
}

# Of its size mke2fs would take blocks of 1024 bytes and four times the inodes, also for what it grows to.
filesystem_data() {
  local path time
  rm -f "$2"
  truncate -s ${data_mib}M "$2"
  E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 -i 16384 -J size=8 -L data -U $data_id -E "hash_seed=$data_id,root_owner=0:0" -d "$1" "$2"
  # mke2fs takes over when the folders were made here.
  (cd "$1" && find . -printf '/%P\n') | while read -r path; do
    for time in atime ctime mtime crtime; do
      printf 'set_inode_field %s %s @%s\nset_inode_field %s %s_extra 0\n' "$path" "$time" "$SOURCE_DATE_EPOCH" "$path" "$time"
    done
  done | E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f /dev/stdin "$2" >"$work/debugfs.log" 2>&1
}

# bundle SQUASHFS VERSION FILE [COMPATIBLE] signs an update. The version is in the signed payload, where the image's pre-install
# looks. One that the image it holds would not take, since its certificate has expired or is not below the CA, is not made.
bundle() {
  local content=$work/payload
  rm -rf "$content" "$3"
  mkdir -p "$content"
  cp --reflink=auto "$1" "$content/rootfs.img"
  printf '%s\n' "$2" >"$content/version"
  printf '[update]\ncompatible=%s\nversion=%s\n\n[bundle]\nformat=verity\n\n[image.rootfs]\nfilename=rootfs.img\n' "${4:-sluice-arm64-efi}" "$2" >"$content/manifest.raucm"
  find "$content" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  rauc --cert="$UPDATE_CERT" --key="$UPDATE_KEY" --keyring="$UPDATE_CA" bundle "$content" "$3" >"$work/rauc.log" 2>&1 ||
    fail "rauc bundle with the certificate $UPDATE_CERT: $(cat "$work/rauc.log")"
  rm -rf "$content"
}
