#!/bin/sh
# Installs the Debian packages that are named. Must run as root; scripts/setup.sh calls it.
set -eu
export DEBIAN_FRONTEND=noninteractive
export PATH="$PATH:/usr/sbin:/sbin"
policy=/usr/sbin/policy-rc.d
log=$(mktemp)

finish() {
    rm -f "$log"
    [ -z "${our_policy:-}" ] || rm -f "$policy"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

explain() {
    tail -n 5 "$log" >&2
    if grep -qi 'could not get lock' "$log"; then
        echo "setup: another apt-get or dpkg is at work; run this again when it has ended" >&2
    elif grep -qiE 'temporary failure|could not resolve|failed to fetch|unable to connect|unable to locate' "$log"; then
        echo "setup: cannot fetch $*: is there a network, and are Debian's main packages in /etc/apt?" >&2
    else
        echo "setup: apt-get install $* failed, see the lines above" >&2
    fi
}

# The package of RabbitMQ would start a system broker. taskqueue brings its own.
if [ ! -e "$policy" ]; then
    our_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

echo "setup: installing Debian packages: $*"
# Whether the lists could be refreshed does not matter where the packages are at hand.
apt-get -q update >"$log" 2>&1 </dev/null || true
if ! apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=60 install "$@" >>"$log" 2>&1 </dev/null; then
    explain "$@"
    exit 1
fi
