#!/bin/sh
# Install dmap as a service of this host, or into the tree DESTDIR for a package; or take it away again.
# `make install-service` and `make uninstall-service` call it.  Both can be repeated: the same tree results.
#
#   PREFIX   the venv (/opt/dmap)         DESTDIR  where the tree begins; if set, systemctl is left alone
#   UNITDIR  /etc/systemd/system          PYTHON   makes the venv (python3); the service runs on it
#   EXTRAS   '[engine]' adds llama.cpp, for backends of kind gguf; '[tokenizer]' what models' `tokenizer` takes
set -eu
umask 022

DESTDIR=${DESTDIR:-} PREFIX=${PREFIX:-/opt/dmap} UNITDIR=${UNITDIR:-/etc/systemd/system}
PYTHON=${PYTHON:-python3} EXTRAS=${EXTRAS:-}
source=$(cd "$(dirname "$0")/.." && pwd)
program=$DESTDIR$PREFIX share=$DESTDIR$PREFIX/share/dmap config=$DESTDIR/etc/dmap units=$DESTDIR$UNITDIR

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

on_this_host() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

check() {
    case $PREFIX in /*) ;; *) fail "PREFIX must be a path from the root: $PREFIX" ;; esac
    if [ -d "$program" ] && [ ! -e "$program/pyvenv.cfg" ] && [ -n "$(ls -A "$program")" ]; then
        fail "$program has something else in it; choose another PREFIX"
    fi
    case $("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
    /home/* | /root/*) fail "the service cannot see $PYTHON, which is in a home; try PYTHON=/usr/bin/python3" ;;
    esac
}

install_program() {
    "$PYTHON" -m venv "$program"
    # Built from a copy: the checkout gets no files of root's, and no leftovers of an older build get in.
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    (cd "$source" && cp -R dmap setup.cfg pyproject.toml README.md LICENSE "$copy")
    "$program/bin/python" -m pip install --quiet --disable-pip-version-check "$copy$EXTRAS"
    # The script names its interpreter, which will not be under DESTDIR when it runs.
    sed -i "1s|^#!.*|#!$PREFIX/bin/python|" "$program/bin/dmap"
}

install_files() {
    install -d "$share" "$config" "$units"
    install -m 644 "$source"/systemd/drop-ins/*.conf "$source/config.example.yaml" "$source"/docs/*.md "$share"
    for unit in dmap.service dmap.socket dmap-load@.service dmap-load@.timer; do
        sed "s|/opt/dmap|$PREFIX|g" "$source/systemd/$unit" >"$units/$unit"
        chmod 644 "$units/$unit"
    done
    # A second dmap on one host: the same unit, with a file and a state of its own.
    sed -e '/^Description=/s|$|, %i|' -e 's|/etc/dmap/config\.yaml|/etc/dmap/%i.yaml|' \
        -e 's|/etc/dmap/environment|/etc/dmap/%i.environment|' -e 's|^StateDirectory=dmap$|&-%i|' \
        -e 's|/var/lib/dmap$|&-%i|' "$units/dmap.service" >"$units/dmap@.service"
    # It is its owner's from then on.
    [ -e "$config/config.yaml" ] || install -m 644 "$source/systemd/config.yaml" "$config"
}

install_all() {
    check
    install_program
    install_files
    if on_this_host; then
        systemctl daemon-reload
        echo "Look at /etc/dmap/config.yaml, then: systemctl enable --now dmap (after an upgrade: systemctl restart dmap)"
    fi
}

# Timers of models and further dmaps, which `systemctl enable` has made links to, in /etc whatever UNITDIR is.
uninstall_instances() {
    if on_this_host; then
        systemctl stop 'dmap-load@*' 'dmap@*'
    fi
    for link in "$DESTDIR"/etc/systemd/system/*.target.wants/dmap-load@*.timer \
        "$DESTDIR"/etc/systemd/system/*.target.wants/dmap@*.service; do
        [ ! -L "$link" ] || rm "$link"
    done
}

uninstall_all() {
    uninstall_instances
    if on_this_host; then
        for unit in dmap.socket dmap.service; do
            [ ! -e "$units/$unit" ] || systemctl disable --now "$unit"
        done
    fi
    for unit in dmap.service dmap@.service dmap.socket dmap-load@.service dmap-load@.timer; do
        rm -f "$units/$unit"
    done
    if [ -e "$program/pyvenv.cfg" ] && [ -d "$share" ]; then # nothing but what was installed by this
        rm -rf "$program"
    fi
    if on_this_host; then
        systemctl daemon-reload
    fi
    echo "Left for you: $config, /var/lib/dmap*, and drop-ins in $units/dmap*.service.d, if there are any"
}

case ${1:-} in
install) install_all ;;
uninstall) uninstall_all ;;
*) fail "usage: $0 install | uninstall" ;;
esac
