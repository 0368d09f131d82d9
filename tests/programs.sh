#!/bin/bash
# programs.sh NAME COMMAND...: installs Debian's package NAME for tests, where none of the commands is there: root, on
# Debian or Ubuntu. NAME=required, in capitals, makes it an error where that cannot be; elsewhere it says so, and the
# tests that need it are skipped (programs.py).
set -euo pipefail

package=$1
shift
required=${package^^}

leave() {
  echo "$package: $*" >&2
  [ "${!required:-optional}" = required ] && exit 2 || exit 0
}

for name; do
  command -v "$name" >/dev/null && exit 0
done
command -v apt-get >/dev/null || leave "it is missing, and there is no apt-get to install it"
[ "$(id -u)" = 0 ] || leave "it is missing, and only root can install it: apt-get install $package"
# What a package would start as a service of this machine, tests start for themselves.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
fi
{ apt-get update && apt-get install -y --no-install-recommends "$package"; } >&2 || leave "apt-get install $package failed"
