# SPDX-License-Identifier: Apache-2.0
"""Ask what anything a robot's camera sees is: region language, tracking and ROS 2 in one package."""

from pkgutil import extend_path

# The interface package (messages, services, actions) that colcon generates has this same name.
# When Python finds this folder first (a checkout, `python -m pytest`), the generated `msg`, `srv`
# and `action` are still to be found further along the path; and the other way round.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
