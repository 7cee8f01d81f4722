#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the folder of Python.h if CMake has to be told of it: where the machine has none (no python3-dev), the
# distribution's package is unpacked under .colcon, which needs no rights. Usage: tools/python_headers.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
read -r version folder < <("$1" -c 'import sys, sysconfig
print("%d.%d" % sys.version_info[:2], sysconfig.get_path("include"))')
[ ! -e "$folder/Python.h" ] || exit 0

to=$PWD/.colcon/headers
if [ ! -e "$to/usr/include/python$version/Python.h" ]; then
  mkdir -p "$to"
  if ! (cd "$to" && apt-get download "libpython$version-dev" && dpkg -x libpython*-dev*.deb .) > "$to/log" 2>&1; then
    echo "setup: Python.h is missing: install Python's headers (Debian, Ubuntu: apt install python3-dev)" >&2
    exit 1
  fi
fi
echo "$to/usr/include/python$version"
