#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Says, one line each, what this machine lacks for `make setup`. Usage: tools/check_machine.sh PYTHON
set -uo pipefail
python=${1:-python3}
lacks=0

lack() {
  echo "setup: $1" >&2
  lacks=1
}

if ! command -v "$python" > /dev/null; then
  lack "$python is missing: install Python 3.10 to 3.13 (Debian, Ubuntu: apt install python3 python3-venv)"
elif ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; then
  lack "$("$python" --version 2>&1) is not supported: install Python 3.10 to 3.13 and run make PYTHON=python3.12"
elif ! "$python" -c 'import venv, ensurepip' 2> /dev/null; then
  lack "$python has no venv: install it (Debian, Ubuntu: apt install python3-venv)"
fi
if [ -n "${CXX-}" ] && ! command -v "${CXX%% *}" > /dev/null; then
  lack "the C++ compiler named by CXX, '$CXX', is missing: install it or unset CXX"
elif [ -z "${CXX-}" ] && ! command -v c++ > /dev/null && ! command -v g++ > /dev/null && ! command -v clang++ > /dev/null; then
  lack "a C++ compiler is missing: install one (Debian, Ubuntu: apt install g++)"
fi
if ! command -v make > /dev/null && ! command -v gmake > /dev/null; then
  lack "make is missing: install it (Debian, Ubuntu: apt install make)"
fi
. "$(dirname "$0")/which_ros.sh"
if [ "$PIXELREFER_ROS" = apt ]; then # its core brings neither
  if ! command -v colcon > /dev/null; then
    lack "colcon is missing: install it (apt install python3-colcon-common-extensions)"
  fi
  if ! "$python" -c 'import cv2' 2> /dev/null; then
    lack "$python has no OpenCV: install what package.xml names (rosdep install --from-paths . -y --ignore-src)"
  fi
elif [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
  lack "ROS wheels exist only for x86-64 Linux, this is $(uname -s) $(uname -m): install ROS 2 Jazzy with apt and source it"
fi
exit $lacks
