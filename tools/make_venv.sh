#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv from the pinned requirements. Usage: tools/make_venv.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
. tools/which_ros.sh
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE # set inside another environment of ROS wheels; its libraries are not ours
log=.venv/pip.log

pip() { # quiet on the terminal; everything is in the log, its end is shown on failure
  if ! .venv/bin/python -m pip --disable-pip-version-check "$@" >> "$log" 2>&1 < /dev/null; then
    tail -n 15 "$log" >&2
    echo "setup: pip failed; everything it said is in $log. Run make again to go on." >&2
    exit 1
  fi
}

# An environment for the other kind of ROS, or for a Python that is gone, cannot be mended.
if ! .venv/bin/python -c 'import pip' 2> /dev/null || { ls .venv/ready-* > /dev/null 2>&1 && [ ! -e ".venv/ready-$PIXELREFER_ROS" ]; }; then
  rm -rf .venv
fi
files=(-r requirements/test.txt -r requirements/demo.txt)
if [ "$PIXELREFER_ROS" = apt ]; then
  [ -d .venv ] || "$python" -m venv --system-site-packages .venv
  files+=(-r requirements/robot.txt)
else
  [ -d .venv ] || "$python" -m venv .venv
  files+=(-r requirements/core.txt -r requirements/ros.txt)
  # Old CMakes cannot list imported targets (tools/fix_imported.cmake); 4 refuses what the wheels ask for.
  version=$({ cmake --version 2> /dev/null || true; } | sed -nE '1s/[^0-9]*([0-9]+\.[0-9]+).*/\1/p')
  version=${version:-0.0}
  if [ "${version%.*}" -ne 3 ] || [ "${version#*.}" -lt 21 ]; then
    files+=(-r requirements/cmake.txt)
  fi
fi

echo "setup: installing the pinned requirements into .venv (minutes; details in $log)"
# torch first and alone: it is the largest, and nothing installed later may choose another one.
pip install -c requirements/constraints.txt "$(grep '^torch==' requirements/networks.txt)"
pip install -c requirements/constraints.txt "${files[@]}"
touch ".venv/ready-$PIXELREFER_ROS"
