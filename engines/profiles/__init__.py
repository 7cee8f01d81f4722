# SPDX-License-Identifier: Apache-2.0
"""What is asked of the engines on each class of machine: one YAML file per class, beside this one."""

from __future__ import annotations

from pixelrefer_ros.engines.profiles.choose import choose_profile, shipped_profiles
from pixelrefer_ros.engines.profiles.profile import MachineProfile, read_profile

__all__ = ["MachineProfile", "choose_profile", "read_profile", "shipped_profiles"]
