# Sourced by the other scripts: finds a Python and makes a virtual environment with it.
# shellcheck shell=sh

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 1
}

# By running it: a name on PATH may be a shim of a version that is not there.
is_suitable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

has_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

# Prints the first Python that serves; PYTHON in the environment is taken at its word.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_suitable "$PYTHON" ||
            fail "PYTHON=$PYTHON does not run, or is older than Python 3.11" \
                "name a newer one, or leave PYTHON unset to have one found"
        has_venv "$PYTHON" ||
            fail "PYTHON=$PYTHON lacks venv or ensurepip" \
                "on Debian and Ubuntu: apt-get install python3-venv"
        echo "$PYTHON"
        return
    fi
    incomplete=
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        is_suitable "$candidate" || continue
        if has_venv "$candidate"; then
            echo "$candidate"
            return
        fi
        incomplete=${incomplete:-$candidate}
    done
    [ -z "$incomplete" ] ||
        fail "$incomplete lacks venv or ensurepip" \
            "on Debian and Ubuntu: apt-get install python3-venv"
    fail "no Python 3.11 or newer on PATH" "install one, or name it: PYTHON=/path/to/python3 $0"
}

# Makes the environment $1, unless an earlier run left it whole.
make_environment() {
    if is_whole "$1"; then
        return
    fi
    python=$(find_python) || exit
    "$python" -m venv --clear "$1"
}

is_whole() {
    is_suitable "$1/bin/python" && "$1/bin/python" -m pip --version >/dev/null 2>&1 || return
    [ -z "${PYTHON:-}" ] || [ "$(identify "$PYTHON")" = "$(identify "$1/bin/python")" ]
}

identify() {
    "$1" -c 'import sys; print(sys.base_prefix, sys.version)' 2>&1
}

# Installs into the environment $1 with pip's arguments that follow $2, unless that was done
# before with the same file $2: a second run needs no network.
install_once() {
    environment=$1
    described_by=$2
    shift 2
    if ! cmp -s "$described_by" "$environment/installed-from"; then
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
        cp "$described_by" "$environment/installed-from"
    fi
}
