#!/usr/bin/env bash
# Installs the packages of Debian that tests need and this machine lacks (see programs.py beside it).  Takes root.
set -euo pipefail
read -ra missing <<<"$(python3 "$(dirname "$0")/programs.py")"
((${#missing[@]})) || exit 0

export DEBIAN_FRONTEND=noninteractive
install() {
    apt-get update --quiet
    apt-get install --quiet --yes --no-install-recommends "${missing[@]}"
}
install || { sleep 5 && install; } # a mirror may be busy for a moment
