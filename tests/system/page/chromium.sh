#!/bin/bash
# Installs the browser in which the tests of the page run, where it is missing: root, on Debian or Ubuntu.
# CHROMIUM=required makes it an error where that cannot be; elsewhere it says so, and the tests are skipped.
set -euo pipefail

leave() {
  echo "chromium.sh: $*" >&2
  [ "${CHROMIUM:-optional}" = required ] && exit 2 || exit 0
}

for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null && exit 0
done
command -v apt-get >/dev/null || leave "chromium is missing, and there is no apt-get to install it"
[ "$(id -u)" = 0 ] || leave "chromium is missing, and only root can install it: apt-get install chromium"
{ apt-get update && apt-get install -y --no-install-recommends chromium; } >&2 || leave "apt-get install chromium failed"
