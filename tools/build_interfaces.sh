#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the package with colcon into .colcon, against the apt ROS where it is sourced, else against the wheels
# in .venv. Python files are linked, not copied: only messages and CMakeLists.txt need another build.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
venv=$root/.venv
. tools/which_ros.sh
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

# A build for the other kind of ROS, or one that did not end, is not built upon.
[ -e ".colcon/ready-$PIXELREFER_ROS" ] || rm -rf .colcon
mkdir -p .colcon
cmake_args=(-DBUILD_TESTING=OFF)
if [ "$PIXELREFER_ROS" = wheels ]; then
  export PATH="$venv/bin:$PATH" AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv"
  unset COLCON_PREFIX_PATH PYTHONPATH
  cmake_args+=("-DPython3_EXECUTABLE=$venv/bin/python3" "-DCMAKE_PROJECT_INCLUDE=$root/tools/fix_imported.cmake")
  headers=$(tools/python_headers.sh "$venv/bin/python3")
  if [ -n "$headers" ]; then
    # Debian's pyconfig.h includes one that lies beside the folder of the version.
    export CPATH="$(dirname "$headers")${CPATH:+:$CPATH}"
    cmake_args+=("-DPython3_INCLUDE_DIR=$headers")
  fi
fi

echo "setup: building the messages (half a minute; details in .colcon/build.log)"
if ! colcon --log-base .colcon/log build --base-paths . --build-base .colcon/build --install-base .colcon/install \
  --merge-install --symlink-install --event-handlers console_direct+ --cmake-args "${cmake_args[@]}" \
  > .colcon/build.log 2>&1 < /dev/null; then
  { grep -iE -A8 'error|failed' .colcon/build.log || tail -n 15 .colcon/build.log; } | head -n 30 >&2
  echo "setup: colcon failed; everything it said is in .colcon/build.log" >&2
  exit 1
fi
touch ".colcon/ready-$PIXELREFER_ROS"
