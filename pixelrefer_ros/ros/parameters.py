# SPDX-License-Identifier: Apache-2.0
"""The schema as ROS parameters: declared with descriptors, checked when set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rclpy.parameter
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.parameters import BY_NAME, SCHEMA, Change, Parameter, Parameters, check_parameters


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What ``ros2 param describe`` shows of a parameter."""
    unranged = parameter.choices or parameter.max_length or parameter.off is not None
    constraints = [parameter.bounds] if unranged else []
    if parameter.change is not Change.ANY_TIME:
        constraints.append(f"may change {parameter.change.value}")
    message = ParameterDescriptor(
        description=parameter.description + (f" Unit: {parameter.unit}." if parameter.unit else ""),
        additional_constraints="; ".join(constraints),
        read_only=parameter.read_only,
    )
    if parameter.minimum is not None and parameter.maximum is not None:
        least, most = parameter.minimum, parameter.maximum
        if parameter.off is not None:  # a descriptor has one range: the schema refuses what lies between
            least = parameter.off
        if parameter.type is int:
            message.integer_range = [IntegerRange(from_value=int(least), to_value=int(most), step=0)]
        else:
            message.floating_point_range = [FloatingPointRange(from_value=least, to_value=most, step=0.0)]
    return message


class NodeParameters:
    """A node's parameters: always a complete, checked set."""

    def __init__(
        self, node: Node, *, unconfigured: Callable[[], bool], on_change: Callable[[Parameters], None]
    ) -> None:
        """Declare every parameter of the schema on `node`, and watch what is set from now on.

        Args:
            node: gets the parameters.
            unconfigured: asked whether parameters that are fixed by configuring may change now.
            on_change: told the new set after a change; runs on the executor's thread.

        Raises:
            ParameterError: a value given at start is of the wrong type or out of bounds.
        """
        self._unconfigured = unconfigured
        self._on_change = on_change
        self._values: dict[str, Any] = {p.name: _declare(node, p) for p in SCHEMA}
        _warn_of_unknown(node)
        node.add_pre_set_parameters_callback(_integers_to_floats)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take_over)

    def current(self) -> Parameters:
        """The values now."""
        return check_parameters(self._values)

    def _check(self, parameters: list[rclpy.parameter.Parameter]) -> SetParametersResult:
        try:
            for given in parameters:
                if (known := BY_NAME.get(given.name)) is None:
                    continue  # not ours: use_sim_time, QoS overrides
                known.check(given.value)
                if known.change is Change.UNCONFIGURED and not self._unconfigured():
                    raise ParameterError(
                        f"parameter {known.name} is fixed while the node is configured: clean up first "
                        "(ros2 lifecycle set <node> deactivate, cleanup), set it, then configure and activate"
                    )
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _take_over(self, parameters: list[rclpy.parameter.Parameter]) -> None:
        ours = {given.name: given.value for given in parameters if given.name in BY_NAME}
        if ours:
            self._values.update(ours)
            self._on_change(self.current())


def _declare(node: Node, parameter: Parameter) -> Any:
    """Declare one parameter and return its value.

    Declared loosely first: rclpy would refuse ``track_rate:=5`` for a float, and with a text that
    names neither bounds nor remedy.
    """
    loose = ParameterDescriptor(dynamic_typing=True)
    given = node.declare_parameter(parameter.name, parameter.default, loose).value
    node.undeclare_parameter(parameter.name)
    value = parameter.check(given)
    node.declare_parameter(parameter.name, value, descriptor(parameter), ignore_override=True)
    return value


def _warn_of_unknown(node: Node) -> None:
    """Say which parameters given at start do not exist: ROS drops them without a word, typing errors too."""
    given = getattr(node, "_parameter_overrides", {})  # rclpy has no public way to see them
    unknown = sorted(name for name in given if not node.has_parameter(name) and not name.startswith("qos_"))
    if unknown:
        node.get_logger().warning(f"ignored, as no such parameter exists: {', '.join(unknown)}")


def _integers_to_floats(parameters: list[rclpy.parameter.Parameter]) -> list[rclpy.parameter.Parameter]:
    """Let ``ros2 param set /pixelrefer track_rate 5`` mean 5.0."""

    def converted(given: rclpy.parameter.Parameter) -> rclpy.parameter.Parameter:
        known = BY_NAME.get(given.name)
        if known is None or known.type is not float or type(given.value) is not int:
            return given
        return rclpy.parameter.Parameter(given.name, value=float(given.value))

    return [converted(given) for given in parameters]
