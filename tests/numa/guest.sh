#!/bin/bash
# Runs a command in a Linux guest of two NUMA nodes, on any machine where this script is root: QEMU's software emulation.
set -euo pipefail

prog=${0##*/}
usage() {
  cat <<USAGE
usage: $prog [options] -- COMMAND [ARGUMENT ...]
       $prog --prepare

The guest has 2 nodes of 2 CPUs each. Its root is this machine's own file system: read-only underneath, a tmpfs on top
that is thrown away at the end. COMMAND runs as root in the current folder; its output and exit status are this
script's, and what it leaves in \$GUEST_OUT stays in the folder named with --out.

      --mem MIB        memory of each node                       (2048)
      --timeout SEC    wall-clock limit of the whole run         (600)
      --boot-timeout SEC  a guest that has not started COMMAND by then is started anew, three times in all   (90)
      --out DIR        folder that the guest sees as \$GUEST_OUT (a temporary one)
      --env NAME[=V]   hand a variable on (PATH, HOME and LANG always are)
      --append ARGS    more kernel parameters
      --prepare        only install and build what is missing, then stop

Exit status: COMMAND's own; 124: the time limit ended it; 125: the guest could not be set up, or broke down. What is
built is kept in \$NUMA_GUEST_CACHE (/var/cache/numoe-numa-guest).
USAGE
}
die() { echo "$prog: $*" >&2; exit 125; }

mem=2048 limit=600 boot_limit=90 out='' append='' prepare=0
cores=2 nodes=2 distance=21
cpu=Haswell,smap=off,smep=off   # LLVM knows it by name; AVX2 and no AVX-512, which software emulation lacks
cache=${NUMA_GUEST_CACHE:-/var/cache/numoe-numa-guest}
envs=(PATH HOME LANG)

while (($#)); do
  case $1 in
    --mem) mem=$2; shift 2;;
    --timeout) limit=$2; shift 2;;
    --boot-timeout) boot_limit=$2; shift 2;;
    --out) out=$2; shift 2;;
    --env) envs+=("$2"); shift 2;;
    --append) append+=" $2"; shift 2;;
    --prepare) prepare=1; shift;;
    --help) usage; exit 0;;
    --) shift; break;;
    *) usage >&2; exit 125;;
  esac
done
((prepare || $#)) || { usage >&2; exit 125; }

# ---------------------------------------------------------------- preparation
# The guest's first program. It finds everything else in the shared control folder.
init_script() {
  cat <<'INIT'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /ctl /lower /rw /root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for m in $(cat /modules/order); do insmod /modules/$m || echo "no module $m"; done
share() { # TAG WHERE ro|rw
  if [ $3 = ro ]; then c=loose; else c=mmap; fi
  mount -t 9p -o $3,trans=virtio,version=9p2000.L,msize=512000,cache=$c $1 $2
}
down() { sync; echo o > /proc/sysrq-trigger; sleep 60; poweroff -f; }
share ctl /ctl rw || { echo "no control folder"; down; }
ok=1
share hostroot /lower ro || ok=0
mount -t tmpfs -o size=60%,mode=755 tmpfs /rw; mkdir /rw/up /rw/work
layers=lowerdir=/lower,upperdir=/rw/up,workdir=/rw/work
mount -t overlay -o $layers,redirect_dir=off,index=off,metacopy=off,xino=off overlay /root || ok=0
for d in proc sys dev run tmp; do [ -d /root/$d ] || mkdir -p /root/$d; done
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs -o mode=1777,size=60% tmpfs /root/dev/shm
mount -t tmpfs -o mode=755 tmpfs /root/run
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
ln -sf /proc/self/fd /root/dev/fd; ln -sf /proc/self/fd/0 /root/dev/stdin
ln -sf /proc/self/fd/1 /root/dev/stdout; ln -sf /proc/self/fd/2 /root/dev/stderr
mkdir -p /root/run/guest/out; share out /root/run/guest/out rw || ok=0
cp /ctl/cmd /root/run/guest/cmd
ip link set lo up
hostname numa-guest
echo "127.0.0.1 localhost numa-guest" > /root/etc/hosts
echo > /ctl/booted
so=$(echo /dev/vport*p1); se=$(echo /dev/vport*p2)
status=125
if [ $ok = 1 ]; then
  cd /root; mount --move . /
  chroot . /bin/bash /run/guest/cmd < /dev/null > $so 2> $se
  status=$?
fi
echo $status > /ctl/status.new
mv /ctl/status.new /ctl/status
down
INIT
}

is_static() { ! ldd "$1" >/dev/null 2>&1; }

install_programs() {
  local need=()
  command -v qemu-system-x86_64 >/dev/null || need+=(qemu-system-x86)
  { command -v busybox >/dev/null && is_static "$(command -v busybox)"; } || need+=(busybox-static)
  command -v cpio >/dev/null || need+=(cpio)
  ((${#need[@]})) || return 0
  command -v apt-get >/dev/null || die "${need[*]} are missing, and there is no apt-get to install them"
  { apt-get update && apt-get install -y --no-install-recommends "${need[@]}"; } >&2 \
    || die "apt-get install ${need[*]} failed"
}

add_module() { # NAME: copies it, and before it those that it depends on
  local name=${1//-/_} file needed
  [ -z "${seen[$name]:-}" ] || return 0
  seen[$name]=1
  file=$(find "$unpacked/lib/modules" -name "${name//_/[-_]}.ko" | head -1)
  [ -n "$file" ] || return 0                        # built in
  for needed in $(tr '\0' '\n' < "$file" | sed -n 's/^depends=//p' | tr ',' ' '); do add_module "$needed"; done
  cp "$file" "$cache/modules.new/"; basename "$file" >> "$cache/modules.new/order"
}

fetch_kernel() { # the distribution's own, unpacked and never installed
  local folder package module
  folder=$(mktemp -d "$cache/get.XXXXXX"); unpacked=$folder/x
  find_package() { apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p' | head -1; }
  package=$(find_package)
  [ -n "$package" ] || { apt-get update >&2; package=$(find_package); }
  [ -n "$package" ] || die "there is no kernel package linux-image-amd64"
  (cd "$folder" && apt-get download "$package" >&2 && dpkg-deb -x ./*.deb x) || die "could not get $package"
  rm -rf "$cache/modules.new"; mkdir -p "$cache/modules.new"; : > "$cache/modules.new/order"
  declare -gA seen=()
  for module in virtio_pci virtio_console 9pnet_virtio 9p overlay; do add_module $module; done
  rm -rf "$cache/modules"; mv "$cache/modules.new" "$cache/modules"
  # Uncompressed here once: the guest would take 2.5 s to do it at every start.
  python3 - "$unpacked"/boot/vmlinuz-* "$cache/vmlinux.new" <<'UNPACK' || die "found no kernel in $package"
import lzma, re, sys
image = open(sys.argv[1], "rb").read()
for match in re.finditer(rb"\xfd7zXZ\x00", image):
    try:
        elf = lzma.LZMADecompressor().decompress(image[match.start():])
    except lzma.LZMAError:
        continue
    if elf[:4] == b"\x7fELF":
        open(sys.argv[2], "wb").write(elf)
        sys.exit()
sys.exit(1)
UNPACK
  mv "$cache/vmlinux.new" "$cache/vmlinux"
  rm -rf "$folder"
}

build_initrd() {
  local folder
  initrd=$cache/initrd-$(init_script | sha256sum | cut -c1-16)
  [ ! -s "$initrd" ] || return 0
  folder=$(mktemp -d "$cache/initrd.XXXXXX")
  mkdir -p "$folder/bin"; cp "$(command -v busybox)" "$folder/bin/busybox"; cp -r "$cache/modules" "$folder/modules"
  init_script > "$folder/init"; chmod 755 "$folder/init"
  (cd "$folder" && find . | cpio -o -H newc --quiet) > "$initrd.new"
  mv "$initrd.new" "$initrd"; rm -rf "$folder"
}

[ "$(id -u)" = 0 ] || die "a guest that shares this machine's files must be started by root"
[ "$(uname -m)" = x86_64 ] || die "found a $(uname -m), expected an x86_64"
mkdir -p "$cache"
exec 9>"$cache/lock"; flock 9
install_programs
[ -s "$cache/vmlinux" ] || fetch_kernel
build_initrd
exec 9>&-
((prepare)) && exit 0

# ---------------------------------------------------------------- the run
ctl=$(mktemp -d -t numa-guest.XXXXXX); qemu_pid=''
cleanup() {
  [ -z "$qemu_pid" ] || { kill -9 "$qemu_pid" && wait "$qemu_pid"; } 2>/dev/null || :
  rm -rf "$ctl"
}
trap cleanup EXIT; trap 'exit 130' INT; trap 'exit 143' TERM HUP
mkdir "$ctl/c"
[ -n "$out" ] || out=$ctl/out
mkdir -p "$out"; out=$(realpath "$out")

{ echo 'export NUMA_GUEST=1 GUEST_OUT=/run/guest/out'
  for e in "${envs[@]}"; do
    if [[ $e == *=* ]]; then printf 'export %s=%q\n' "${e%%=*}" "${e#*=}"
    elif [ -n "${!e+x}" ]; then printf 'export %s=%q\n' "$e" "${!e}"; fi
  done
  printf 'cd %q || exit 125\n' "$PWD"
  printf 'exec'; printf ' %q' "$@"; echo
} > "$ctl/c/cmd"

args=(-nodefaults -no-user-config -display none -no-reboot -monitor none
  -machine q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off -accel tcg,thread=multi -cpu "$cpu"
  -kernel "$cache/vmlinux" -initrd "$initrd"
  -smp "$((nodes * cores)),sockets=$nodes,cores=$cores,threads=1" -m "$((nodes * mem))M")
for ((n = 0; n < nodes; n++)); do
  args+=(-object "memory-backend-ram,id=m$n,size=${mem}M"
    -numa "node,nodeid=$n,cpus=$((n * cores))-$((n * cores + cores - 1)),memdev=m$n")
done
args+=(-numa "dist,src=0,dst=1,val=$distance")
share_folder() { # TAG DIR [OPTION]
  args+=(-fsdev "local,id=$1,path=$2,security_model=passthrough,multidevs=remap${3:-}"
    -device "virtio-9p-pci,fsdev=$1,mount_tag=$1")
}
share_folder hostroot / ,readonly=on
share_folder ctl "$ctl/c"
share_folder out "$out"

exec 5>&1; exec 6> >(cat >&5); so_pid=$!; exec 7> >(cat >&2); se_pid=$!
args+=(-add-fd fd=6,set=6 -chardev file,id=so,path=/dev/fdset/6,append=on
  -add-fd fd=7,set=7 -chardev file,id=se,path=/dev/fdset/7,append=on
  -chardev "file,id=klog,path=$ctl/klog" -serial chardev:klog
  -device virtio-serial-pci,id=vs
  -device virtserialport,bus=vs.0,nr=1,chardev=so,name=stdout
  -device virtserialport,bus=vs.0,nr=2,chardev=se,name=stderr)
args+=(-append "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off tsc=reliable nowatchdog \
rcupdate.rcu_cpu_stall_timeout=300 random.trust_cpu=on$append")

end=$((SECONDS + limit)) timed_out=0
for try in 1 2 3; do  # one of some 200 boots was seen to hang
  qemu-system-x86_64 "${args[@]}" </dev/null >"$ctl/qemu.log" 2>&1 & qemu_pid=$!
  boot_end=$((SECONDS + boot_limit)) again=0
  while kill -0 "$qemu_pid" 2>/dev/null; do
    if ((SECONDS >= end)); then timed_out=1; kill -9 "$qemu_pid" 2>/dev/null || :; break; fi
    if ((SECONDS >= boot_end)) && [ ! -e "$ctl/c/booted" ] && ((try < 3)); then
      again=1; kill -9 "$qemu_pid" 2>/dev/null || :
      echo "$prog: no start after $boot_limit s, trying again" >&2
      break
    fi
    sleep 0.1
  done
  wait "$qemu_pid" 2>/dev/null && code=0 || code=$?
  qemu_pid=''
  ((again)) || break
done
exec 6>&- 7>&-
wait "$so_pid" "$se_pid" 2>/dev/null || :
((timed_out)) && { echo "$prog: ended after $limit s" >&2; exit 124; }
[ -s "$ctl/c/status" ] && exit "$(cat "$ctl/c/status")"
echo "$prog: the guest broke down (QEMU ended with $code)" >&2
cat "$ctl/qemu.log" >&2; tail -20 "$ctl/klog" >&2 2>/dev/null || :
exit 125
