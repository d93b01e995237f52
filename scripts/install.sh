#!/bin/sh
# Installs and uninstalls Millstream: the binary, the units, the pipelines, the documentation, a config.
#
#   scripts/install.sh install|uninstall
#
# PREFIX   where it goes                      /usr/local
# DESTDIR  a root to put before every path    (none; packagers set it)
# BUILD    where the built binary is          target/release
# CONFDIR  where the config goes              /etc/millstream (PREFIX/etc/millstream under another prefix)
#
# What was installed is listed in PREFIX/share/millstream/manifest, and that list is what uninstall
# removes. A config that was edited and the daemon's state are kept; it says so.
set -eu

cd "$(dirname "$0")/.."
PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
BUILD=${BUILD:-${CARGO_TARGET_DIR:-target}/release}
case "$PREFIX" in
    /usr | /usr/local) default_confdir=/etc/millstream ;;
    /*) default_confdir=$PREFIX/etc/millstream ;;
    *) echo "install.sh: PREFIX=$PREFIX is not an absolute path" >&2 && exit 2 ;;
esac
CONFDIR=${CONFDIR:-$default_confdir}
BINDIR=$PREFIX/bin
DATADIR=$PREFIX/share/millstream
DOCDIR=$PREFIX/share/doc/millstream
UNITDIR=${UNITDIR:-$PREFIX/lib/systemd/system}
SYSUSERSDIR=${SYSUSERSDIR:-$PREFIX/lib/sysusers.d}
MANIFEST=$DATADIR/manifest
SAMPLE=$DATADIR/millstream.toml

say() { echo "install.sh: $*" >&2; }

# put MODE SOURCE TARGET: installs a file and lists it.
put() {
    install -D -m "$1" "$2" "$DESTDIR$3"
    printf '%s\n' "$3" >>"$list"
}

# put_text SOURCE TARGET: installs a text with the places filled in.
put_text() {
    sed -e "s|@BINDIR@|$BINDIR|g" -e "s|@CONFDIR@|$CONFDIR|g" \
        -e "s|@DATADIR@|$DATADIR|g" -e "s|@DOCDIR@|$DOCDIR|g" "$1" >"$text"
    put 644 "$text" "$2"
}

# The machine's own systemd is told only where this is its root and systemd runs.
on_this_machine() { [ -z "$DESTDIR" ] && [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; }

do_install() {
    [ -x "$BUILD/millstream" ] || { say "$BUILD/millstream is not there: build it first (make)"; exit 2; }
    case "$("$BUILD/millstream" --version 2>/dev/null)" in
        *faults*) say "$BUILD/millstream is a build for tests: build the daemon first (make)"; exit 2 ;;
    esac
    list=$(mktemp) text=$(mktemp) pages=$(mktemp -d)
    trap 'rm -rf "$list" "$text" "$pages"' EXIT
    put 755 "$BUILD/millstream" "$BINDIR/millstream"
    if "$BUILD/millstream" generate man --out "$pages" && "$BUILD/millstream" generate completions --out "$pages"; then
        for page in "$pages"/*.1; do
            put 644 "$page" "$PREFIX/share/man/man1/$(basename "$page")"
        done
        put 644 "$pages/millstream.bash" "$PREFIX/share/bash-completion/completions/millstream"
        put 644 "$pages/_millstream" "$PREFIX/share/zsh/site-functions/_millstream"
        put 644 "$pages/millstream.fish" "$PREFIX/share/fish/vendor_completions.d/millstream.fish"
    else
        say "man pages and completions are left out: this machine can't run $BUILD/millstream"
    fi
    for unit in systemd/*.service systemd/*.socket; do
        put_text "$unit" "$UNITDIR/$(basename "$unit")"
    done
    put_text systemd/millstream.sysusers "$SYSUSERSDIR/millstream.conf"
    for file in README.md CHANGELOG.md ARCHITECTURE.md LICENSE* docs/*.md; do
        [ ! -f "$file" ] || put 644 "$file" "$DOCDIR/$(basename "$file")"
    done
    for file in docs/clients/python/*.py; do
        [ ! -f "$file" ] || put 644 "$file" "$DOCDIR/clients/python/$(basename "$file")"
    done
    for file in models/*; do
        [ ! -f "$file" ] || put 644 "$file" "$DATADIR/models/$(basename "$file")"
    done
    # An edited config is the operator's: a new version doesn't touch it.
    old_sample=$([ ! -f "$DESTDIR$SAMPLE" ] || cksum <"$DESTDIR$SAMPLE")
    config=$DESTDIR$CONFDIR/millstream.toml
    put_text systemd/millstream.toml "$SAMPLE"
    if [ ! -e "$config" ] || [ "$(cksum <"$config")" = "$old_sample" ]; then
        install -D -m 644 "$DESTDIR$SAMPLE" "$config"
    else
        say "$config is kept as it is; the new sample is $DESTDIR$SAMPLE"
    fi
    printf '%s\n' "$MANIFEST" >>"$list"
    install -D -m 644 "$list" "$DESTDIR$MANIFEST"
    if on_this_machine; then
        systemd-sysusers "$SYSUSERSDIR/millstream.conf"
        systemctl daemon-reload
        say "done. Next: edit $CONFDIR/millstream.toml; systemctl enable --now millstream"
    else
        say "installed under $DESTDIR$PREFIX"
    fi
}

# Removes a directory and its parents, as far as they are empty and were made for this.
prune() {
    directory=$1
    while [ "$directory" != / ] && [ "$directory" != . ]; do
        if [ -z "$DESTDIR" ]; then
            case "$directory" in
                */millstream | */millstream/models) ;;
                /usr | /usr/* | /etc | /etc/*) return 0 ;;
                "$PREFIX" | "$PREFIX"/*) ;;
                *) return 0 ;;
            esac
        fi
        rmdir "$DESTDIR$directory" 2>/dev/null || [ ! -e "$DESTDIR$directory" ] || return 0
        directory=$(dirname "$directory")
    done
}

do_uninstall() {
    manifest=$DESTDIR$MANIFEST
    [ -f "$manifest" ] || { say "$manifest is not there: nothing was installed under $DESTDIR$PREFIX"; exit 2; }
    if on_this_machine; then
        systemctl disable --now millstream.socket millstream.service 2>/dev/null || true
        systemctl stop 'millstream@*.socket' 'millstream@*.service' 2>/dev/null || true
    fi
    config=$DESTDIR$CONFDIR/millstream.toml
    if [ -e "$config" ]; then
        if cmp -s "$config" "$DESTDIR$SAMPLE"; then
            rm -f "$config"
        else
            say "kept, since it was edited: $config"
        fi
    fi
    files=$(cat "$manifest")
    printf '%s\n' "$files" | while IFS= read -r file; do
        rm -f "$DESTDIR$file"
    done
    printf '%s\n' "$files" | while IFS= read -r file; do
        prune "$(dirname "$file")"
    done
    prune "$CONFDIR"
    if on_this_machine; then
        systemctl daemon-reload
        [ ! -d /var/lib/millstream ] || say "kept, since it is the daemon's state: /var/lib/millstream"
    fi
    say "uninstalled from $DESTDIR$PREFIX"
}

case "${1:-}" in
    install) do_install ;;
    uninstall) do_uninstall ;;
    *) say "usage: scripts/install.sh install|uninstall" && exit 2 ;;
esac
