#!/usr/bin/env bash
# Print the path of a Python 3.11-3.13 that can make virtual environments; say what is missing if there is none.
# PYTHON=/path/to/python overrides the search.
set -euo pipefail

suits() {  # exit 0: the right version
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

can_make_venv() {  # Debian ships venv and ensurepip in a package of their own
  "$1" -c 'import venv, ensurepip' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
  candidates=("$PYTHON")
else
  candidates=(python3 python3.13 python3.12 python3.11)
fi

without_venv=""
for candidate in "${candidates[@]}"; do
  if ! suits "$candidate"; then continue; fi
  path=$("$candidate" -c 'import sys; print(sys.executable)')
  if can_make_venv "$path"; then
    echo "$path"
    exit 0
  fi
  without_venv=${without_venv:-$path}
done

if [ -n "$without_venv" ]; then
  version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  echo "error: $without_venv has no venv module" >&2
  echo "  try: sudo apt install python3-venv    (or python$version-venv)" >&2
elif [ -n "${PYTHON:-}" ]; then
  echo "error: PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13" >&2
else
  echo "error: no Python 3.11, 3.12 or 3.13 found (python3 is: $(python3 --version 2>&1 || echo missing))" >&2
  echo "  try: sudo apt install python3 python3-venv    (Debian 12, Ubuntu 24.04 or newer)" >&2
  echo "   or: make PYTHON=/path/to/python3.11 ..." >&2
fi
exit 1
