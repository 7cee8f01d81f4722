# SPDX-License-Identifier: Apache-2.0
"""Everything that exists only while the node is active: topics, services, diagnostics, and work done."""

from __future__ import annotations

from contextlib import ExitStack

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from pixelrefer_ros.parameters import Parameters
from pixelrefer_ros.ros.ask_action import AskAction
from pixelrefer_ros.ros.diagnostics import Diagnostics
from pixelrefer_ros.ros.inputs import CommandInputs, ImageInput
from pixelrefer_ros.ros.outputs import Outputs
from pixelrefer_ros.ros.services import Services
from pixelrefer_ros.ros.switch import SwitchedPerception
from pixelrefer_ros.ros.throttled_log import ThrottledLog

STOP_TIMEOUT_S = 1.0
"""Work is given so long to stop; a network that computes for longer is left to end alone."""


class ActiveInterface:
    """The node's interface while it is active; belongs to the executor's thread."""

    def __init__(
        self,
        node: Node,
        work: SwitchedPerception,
        outputs: Outputs,
        action: AskAction,
        log: ThrottledLog,
        parameters: Parameters,
    ) -> None:
        """Create topics and services, and start to work.

        Args:
            node: gets them.
            work: is switched on.
            outputs: are closed with this.
            action: accepts goals from now on.
            log: told what is refused.
            parameters: as configured.
        """
        self._node, self._work, self._action, self._log = node, work, action, log
        self._parameters = parameters
        self._camera: ImageInput | None = None
        self.outputs = outputs
        with ExitStack() as opened:
            opened.callback(outputs.close)
            opened.callback(self._disable)
            opened.callback(CommandInputs(node, work, log).close)
            opened.callback(Services(node, work, self.set_enabled).close)
            opened.callback(Diagnostics(node, work, log, lambda: self._camera, parameters).close)
            watch = node.create_timer(
                1.0, action.cancel_abandoned, clock=Clock(clock_type=ClockType.STEADY_TIME)
            )
            opened.callback(node.destroy_timer, watch)
            self._enable()
            action.accept(work)
            self._opened = opened.pop_all()

    @property
    def image_topic(self) -> str:
        """The topic that images come from; empty while switched off."""
        return self._camera.topic if self._camera is not None else ""

    def close(self) -> None:
        """Stop work, cancel what runs, and take topics and services away."""
        self._action.reject()
        self._disable()  # first: what this cancels is still told through topics and services
        self._opened.close()

    def set_enabled(self, enabled: bool) -> str:
        """Switch work on or off, keeping models and objects.

        Returns:
            What the node does now, in words.
        """
        if enabled:
            self._enable()
            return "working"
        self._disable()
        return "switched off: images are ignored, regions and questions refused, models and objects kept"

    def _enable(self) -> None:
        self._work.switch_on()
        if self._camera is None:
            self._camera = ImageInput(self._node, self._work, self._log, self._parameters)

    def _disable(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()
        if not self._work.switch_off(STOP_TIMEOUT_S):
            self._node.get_logger().warning(
                f"a network still computes after {STOP_TIMEOUT_S:g} s; its result will be dropped"
            )
