#!/bin/sh
# Builds the Debian packages, and that of the example plugin, into dist/. Installs what building them takes.
set -eu
cd "$(dirname "$0")/.."
. scripts/functions.sh

# Built is a copy, so that nothing of it stays in the checkout and nothing of the checkout's own comes in.
copy_project() {
    if [ -e .git ] && command -v git >/dev/null; then
        git -c safe.directory='*' ls-files -z --cached --others --exclude-standard
    else # as .gitignore has it
        find . \( -name .git -o -name '.venv*' -o -name '.*_cache' -o -name __pycache__ -o -name '*.egg-info' \
            -o -name build -o -name dist \) -prune -o \( -type f -o -type l \) -print0
    fi | tar -c --null --no-recursion --ignore-failed-read -T - | tar -x -C "$1"
}

install_needs() {
    dpkg-checkbuilddeps 2>/dev/null && return
    echo "deb: installing what building the packages takes"
    as_root apt-get -q -y --no-install-recommends build-dep . >"$log" 2>&1 </dev/null ||
        { tail -n 5 "$log" >&2; die "apt-get build-dep failed: are the package lists there (apt-get update)?"; }
}

build() {
    echo "deb: building $1"
    (cd "$1" && dpkg-buildpackage -us -uc -b) >"$log" 2>&1 || { tail -n 30 "$log" >&2; die "$1 cannot be built"; }
}

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM
log=$directory/log
mkdir "$directory/taskqueue"
copy_project "$directory/taskqueue"
install_needs
build "$directory/taskqueue"
build "$directory/taskqueue/examples/digest"
mkdir -p dist
cp "$directory"/*.deb "$directory"/*.changes "$directory"/*.buildinfo dist
cp "$directory"/taskqueue/examples/*.deb dist
ls dist/*.deb
