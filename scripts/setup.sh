#!/bin/sh
# Makes a checkout ready to run and to test: what is missing from Debian's packages, as root the
# system users, and two virtual environments: .venv (newest) and .venv-oldest (Debian 12's versions, or this Debian's).
# `setup.sh bench` makes it ready to be measured beside its peers, too: Redis, and .venv-bench. `setup.sh clients`
# installs the clients of other languages that tests/broker/test_clients.py uses, the shells that
# tests/process/test_completion.py uses, and the browser that tests/browser uses: a gigabyte, three minutes.
# Does nothing, quickly, when nothing is missing. Other arguments are Debian packages to install beside.
set -eu
cd "$(dirname "$0")/.."
python=/usr/bin/python3 # the distribution's own, whatever comes first on PATH
PATH=$PATH:/usr/sbin:/sbin # root that comes from su may lack them

. scripts/functions.sh

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_packages() {
    command -v dpkg-query >/dev/null || die "this is no Debian: install RabbitMQ, amqp-tools and Python's venv by hand"
    missing=
    for package in "$@"; do
        installed "$package" || missing="$missing $package"
    done
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || as_root sh scripts/install-packages.sh $missing
}

# Daemons that root starts give up root: consumers, workers and the monitor's web process become these.
add_users() {
    [ "$(id -u)" = 0 ] || return 0
    for user in taskqueue taskqueue-worker taskqueue-monitor; do
        getent passwd "$user" >/dev/null ||
            adduser --system --quiet --group --home "/var/lib/$user" --no-create-home --gecos "$user" "$user" ||
            die "cannot add the system user $user"
    done
}

# The inputs of an environment, as text: another text means that it must be made anew.
recipe() {
    pwd
    "$python" --version
    echo "$@"
    # Of pyproject.toml what stands before the settings of ruff and the others, which change nothing here.
    { sed '/^\[tool\.ruff\]/,$d' pyproject.toml; cat examples/digest/pyproject.toml "$oldest"; } | sha256sum
}

make_venv() {
    venv=$1
    shift
    [ ! -L "$venv" ] || return 0 # another checkout's: to make it anew would take it from under that one
    wanted=$(recipe "$@")
    [ "$(cat "$venv/recipe" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: making $venv (takes up to a minute)"
    "$python" -m venv --clear "$venv" || die "cannot make $venv with $python"
    # Editable as paths: a hook that finds the modules would be imported by each Python, for half of its start.
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --config-settings editable_mode=compat "$@" ||
        die "pip could not install into $venv: is there a network?"
    echo "$wanted" >"$venv/recipe"
}

# Java's and Go's compilers are large; a JDK or a Node.js that is here already may be of another source.
client_packages() {
    echo zsh fish ruby-bunny php-cli php-amqp php-amqplib golang-go golang-github-rabbitmq-amqp091-go-dev
    echo librabbitmq-client-java prometheus chromium chromium-driver pngquant
    command -v javac >/dev/null || echo default-jdk-headless
    command -v node >/dev/null || echo nodejs
    has_node_packages || command -v npm >/dev/null || echo npm
}

has_node_packages() {
    [ -d .clients/node_modules/amqplib ] && [ -d .clients/node_modules/axe-core ]
}

# axe-core judges the monitor's pages. Its rules change with each release: raise it in a commit of its own.
# npm trusts the certificates of this machine, too; otherwise it tries for minutes where a proxy has one of those.
add_node_packages() {
    has_node_packages ||
        NODE_EXTRA_CA_CERTS=${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt} \
            npm install --silent --no-audit --no-fund --prefix .clients amqplib@0.10 axe-core@4.14.1 ||
        die "npm could not install amqplib and axe-core: is there a network?"
}

wants_bench= wants_clients=
# shellcheck disable=SC2046 # a list of words
[ "${1-}" != clients ] || { wants_clients=yes && shift && set -- $(client_packages) "$@"; }
[ "${1-}" != bench ] || { wants_bench=yes && shift && set -- redis-server "$@"; }
install_packages adduser rabbitmq-server amqp-tools curl python3-venv postgresql "$@"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than 3.11"
[ -z "$wants_clients" ] || add_node_packages
add_users
# Debian 12's versions do not know the Python of newer releases.
oldest=scripts/debian12.txt
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' && oldest=scripts/debian13.txt
make_venv .venv -e '.[dev]' -e examples/digest
make_venv .venv-oldest -c "$oldest" -e '.[test]' -e examples/digest
[ -n "$wants_bench" ] || exit 0
# shellcheck disable=SC2046 # a list of words
make_venv .venv-bench -e '.[postgresql]' $(grep -v '^#' scripts/bench.txt)
