# SPDX-License-Identifier: Apache-2.0
# To be sourced. PIXELREFER_ROS becomes `apt` where an installed ROS 2 Jazzy is sourced, else `wheels`.
if [ "${ROS_DISTRO-}" = jazzy ] && [ -n "${AMENT_PREFIX_PATH-}" ] && command -v ros2 > /dev/null; then
  PIXELREFER_ROS=apt
else
  PIXELREFER_ROS=wheels
fi
