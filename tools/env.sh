# SPDX-License-Identifier: Apache-2.0
# To be sourced (`. tools/env.sh`) after `make setup`: the checkout's Python code, the messages built from it,
# and ROS: the apt one where it is sourced, else the wheels in .venv. Sourcing it twice changes nothing more.

_root=$(cd "$(dirname "${BASH_SOURCE:-$0}")/.." && pwd)
[ -f "$_root/package.xml" ] || _root=$PWD # a shell that does not tell where the sourced file lies
_prefix=$_root/.colcon/install

_prepend() { # variable, folder: the folder first in the variable, once
  eval "_old=\${$1-}"
  case ":$_old:" in
    *":$2:"*) ;;
    *) export "$1=$2${_old:+:$_old}" ;;
  esac
}

. "$_root/tools/which_ros.sh"
if [ "$PIXELREFER_ROS" = wheels ]; then
  # Another environment's wheels would be taken silently if their mark were left.
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
  _prepend AMENT_PREFIX_PATH "$_root/.venv"
  _prepend LD_LIBRARY_PATH "$_root/.venv/lib"
fi
_prepend PATH "$_prefix/lib/pixelrefer_ros"
_prepend PATH "$_root/.venv/bin"
_prepend AMENT_PREFIX_PATH "$_prefix"
_prepend LD_LIBRARY_PATH "$_prefix/lib"
for _folder in "$_prefix"/lib/python3*/site-packages "$_prefix"/local/lib/python3*/dist-packages; do
  if [ -d "$_folder" ]; then _prepend PYTHONPATH "$_folder"; fi
done
_prepend PYTHONPATH "$_root"

# Pictures are lost without it (see the file). Yours is kept if you have one.
if [ -z "${FASTRTPS_DEFAULT_PROFILES_FILE-}${FASTDDS_DEFAULT_PROFILES_FILE-}" ]; then
  export FASTRTPS_DEFAULT_PROFILES_FILE="$_root/config/fastdds_images.xml"
  export FASTDDS_DEFAULT_PROFILES_FILE="$_root/config/fastdds_images.xml"
fi

unset _root _prefix _old _folder
unset -f _prepend
