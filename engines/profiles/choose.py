# SPDX-License-Identifier: Apache-2.0
"""Which profile: by name, by file, or by the GPU of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelrefer_ros.engines.profiles.profile import MachineProfile, read_profile

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime.tensorrt_plans import Gpu

_FOLDER = Path(__file__).parent


def shipped_profiles() -> tuple[MachineProfile, ...]:
    """The profiles that come with the package, by name."""
    return tuple(read_profile(path) for path in sorted(_FOLDER.glob("*.yaml")))


def choose_profile(
    name: str | None, gpu: Gpu, profiles: Sequence[MachineProfile] | None = None
) -> MachineProfile:
    """The profile of that name or, without one, the profile for that GPU.

    Args:
        name: of a shipped profile, or the path of a ``.yaml`` file; None: by the GPU. A named profile is
            taken whatever the GPU is.
        gpu: of this machine.
        profiles: to choose among; None: the shipped ones.

    Raises:
        ParameterError: there is none of that name, the file is wrong, or no profile is for that GPU.
    """
    if name is not None and name.endswith((".yaml", ".yml")):
        return read_profile(Path(name))
    found = tuple(shipped_profiles() if profiles is None else profiles)
    names = ", ".join(profile.name for profile in found)
    if name is not None:
        for profile in found:
            if profile.name == name:
                return profile
        raise ParameterError(f"there is no profile {name!r}: use one of {names}, or the path of a .yaml file")
    fitting = [profile for profile in found if profile.fits(gpu)]
    if not fitting:
        raise ParameterError(
            f"no profile is for this GPU ({gpu}): give one with --profile (the node: engine_profile): {names}"
        )
    # The Orins share one name and one compute capability: the one that asks for most memory is the nearest.
    return max(fitting, key=lambda profile: profile.min_memory_gb)
