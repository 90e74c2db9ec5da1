# What the shell scripts share.

die() {
    echo "$(basename "$0" .sh): $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root is needed, and there is no sudo, to run: $*"
    fi
}
