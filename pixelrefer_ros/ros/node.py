# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: models are loaded in configure, topics and services live in active."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import ChangeState
from rclpy.action.server import RCLError
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from pixelrefer_ros.detached import Detached
from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.model_memory import free_dropped, pass_over_loaded, pass_over_nothing
from pixelrefer_ros.model_source import (
    backends_in_words,
    build_missing_engines,
    build_named_engines,
    load_perception,
)
from pixelrefer_ros.parameters import Parameters, perception_settings
from pixelrefer_ros.ros.active import ActiveInterface
from pixelrefer_ros.ros.ask_action import AskAction
from pixelrefer_ros.ros.main import main
from pixelrefer_ros.ros.outputs import Outputs
from pixelrefer_ros.ros.parameters import NodeParameters
from pixelrefer_ros.ros.switch import SwitchedPerception
from pixelrefer_ros.ros.throttled_log import ThrottledLog
from pixelrefer_ros.types import Answer, Scene

if TYPE_CHECKING:
    from pixelrefer_ros.perception import Perception

__all__ = ["PixelReferNode", "main"]

_STATES_WITH_SHUTDOWN = (
    State.PRIMARY_STATE_UNCONFIGURED,
    State.PRIMARY_STATE_INACTIVE,
    State.PRIMARY_STATE_ACTIVE,
)
_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_LOOK_S = 0.05

T = TypeVar("T")


class PixelReferNode(LifecycleNode):
    """Tracks objects in a camera's images and answers questions about them, as its parameters say.

    Several may live in one process: nothing here is global. Spin it with one `SingleThreadedExecutor`;
    its own threads do the work, and no callback waits for a model (configure does, as it must).
    """

    def __init__(
        self, node_name: str = "pixelrefer", *, stopping: threading.Event | None = None, **options: Any
    ) -> None:
        """Declare the parameters; with `autostart`, configure and activate as soon as the node is spun.

        Args:
            node_name: may be remapped.
            stopping: once set, a configure in progress gives up within a tenth of a second. The node sets it
                itself when there is nothing left to do: with `build_only`, after configuring.
            options: as for ``rclpy.node.Node``.

        Raises:
            ParameterError: a parameter given at start is wrong.
        """
        super().__init__(node_name, **options)
        self._stopping = stopping or threading.Event()
        self.finished = threading.Event()
        self._log = ThrottledLog(self.get_logger())
        self._work: SwitchedPerception | None = None
        self._next_object_id = 1
        self._action: AskAction | None = None
        self._active: ActiveInterface | None = None
        self._parameters_in_use = NodeParameters(
            self, unconfigured=self._is_unconfigured, on_change=self._parameters_changed
        )
        self._rclpy_change_state = self._service_change_state.callback
        self._service_change_state.callback = self._change_state
        self._autostart_timer = None
        parameters = self._parameters_in_use.current()
        self._built = not parameters.build_only
        if parameters.autostart:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady)

    @property
    def exit_code(self) -> int:
        """Of the process when it ends now: 1 if engines should have been built (`build_only`) and are not."""
        return 0 if self._built else 1

    @property
    def goals_running(self) -> int:
        """Action goals whose result has not been handed over yet."""
        return self._action.running if self._action else 0

    def stop(self) -> None:
        """Finalize the node from whatever state it is in; call it on the executor's thread."""
        if self._state() in _STATES_WITH_SHUTDOWN:
            self.trigger_shutdown()

    def destroy_node(self) -> None:
        """Destroy the node, and what rclpy's own method forgets: else 70 MB of shared memory stay behind."""
        self._deactivate()
        self._release()
        self._state_machine.destroy_when_not_in_use()
        super().destroy_node()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the models that the parameters name. A failure is logged, and leaves nothing behind.

        TensorRT engines that the backend needs and that are missing are built first. With `build_only`, only
        that is done, whatever the backend, and the process ends.
        """
        parameters = self._parameters_in_use.current()
        if parameters.build_only:
            return self._build(parameters)
        self.get_logger().info(f"loading model {parameters.model!r} and tracker {parameters.tracker_model!r}")
        try:
            perception = self._unless_stopped(lambda: self._load(parameters), "pixelrefer-loading")
            if perception is None:
                return _FAILURE
            perception.next_object_id = self._next_object_id  # no id is used again while the node lives
            self._work = SwitchedPerception(
                perception,
                on_scene=self._show,
                on_answer=self._say,
                on_refused=partial(self._log.warn, "region refused"),
                on_error=partial(self._log.warn, "fault of a worker"),
            )
            self._action = AskAction(self)
        except Exception as error:  # a model folder can fail in ways of torch's own; the node must stay up
            fault = _told(error)
        else:
            self.get_logger().info(backends_in_words(perception))
            self.get_logger().info(f"ready: {perception.model}")
            return _SUCCESS
        self._release()  # not before: until here, the error refers to what was loaded
        self.get_logger().error(f"cannot configure: {fault} (set the parameter right and configure again)")
        return _FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create topics and services, and start to work."""
        if self._work is None or self._action is None:  # the state machine does not allow it
            return _FAILURE
        parameters = self._parameters_in_use.current()
        self._work.perception.settings = perception_settings(parameters)
        try:
            outputs = Outputs(self, parameters.overlay_quality)
            self._active = ActiveInterface(self, self._work, outputs, self._action, self._log, parameters)
        except Exception as error:  # an interface that cannot be created must not end the process
            self.get_logger().error(f"cannot activate: {type(error).__name__}: {error}")
            self._deactivate()
            return _FAILURE
        self.get_logger().info(f"active: images come from {self._active.image_topic}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop work and take topics and services away; models and objects are kept."""
        self._deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the models go."""
        self._release()
        return _SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop work and let the models go; the action server stays to tell results until `destroy_node`."""
        self._deactivate()
        self._let_models_go()
        return _SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition that raised: back to unconfigured, with nothing left behind."""
        self._deactivate()
        self._release()
        return _SUCCESS

    def _build(self, parameters: Parameters) -> TransitionCallbackReturn:
        """Build the engines of the models; the process then ends, whether they are there or not."""

        def build() -> bool:
            build_named_engines(parameters, say=self.get_logger().info, stopped=self._stopping.is_set)
            return True

        try:
            self._built = self._unless_stopped(build, "pixelrefer-building") is not None
        except Exception as error:  # TensorRT can fail in ways of its own
            self.get_logger().error(f"cannot build the engines: {_told(error)}")
        else:
            if self._built:
                self.get_logger().info("every engine is there")
            else:
                self.get_logger().error("stopped while building: what is finished stays")
        self._stopping.set()
        return _SUCCESS if self._built else _FAILURE

    def _load(self, parameters: Parameters) -> Perception:
        build_missing_engines(parameters, say=self.get_logger().info, stopped=self._stopping.is_set)
        perception = load_perception(parameters)
        pass_over_loaded()
        return perception

    def _unless_stopped(self, work: Callable[[], T], name: str) -> T | None:
        """What `work` gives, done in a thread of that name; None if the node is told to stop meanwhile."""
        detached = Detached(work, name)
        detached.start()
        while not detached.done(_LOOK_S):
            if self._stopping.is_set():
                return None
        return detached.result()

    def _deactivate(self) -> None:
        if self._active is None:
            return
        try:
            self._active.close()  # first: what this cancels is still told by `_say`
        finally:
            self._active = None

    def _release(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action.close()
        self._let_models_go()

    def _let_models_go(self) -> None:
        if self._work is not None:
            self._next_object_id = self._work.perception.next_object_id
        self._work = None
        pass_over_nothing()
        if not self._stopping.is_set():  # else the process ends, and need not wait for it
            free_dropped()

    def _show(self, scene: Scene) -> None:
        if (active := self._active) is not None:
            active.outputs.publish_scene(scene)

    def _say(self, answer: Answer) -> None:
        if (active := self._active) is not None:
            active.outputs.publish_answer(answer)

    def _parameters_changed(self, parameters: Parameters) -> None:
        if self._work is not None:
            self._work.perception.settings = perception_settings(parameters)
        if self._active is not None:
            self._active.outputs.overlay_quality = parameters.overlay_quality

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        if self._is_unconfigured() and self.trigger_configure() == _SUCCESS and not self._stopping.is_set():
            self.trigger_activate()

    def _state(self) -> int:
        return int(self._state_machine.current_state[0])

    def _is_unconfigured(self) -> bool:
        return self._state() == State.PRIMARY_STATE_UNCONFIGURED

    def _change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """Refuse a transition that does not exist from here; rclpy's own callback would end the executor."""
        try:
            response.success = False
            return self._rclpy_change_state(request, response)
        except RCLError as error:
            self.get_logger().warning(f"transition {request.transition.id} refused: {error}")
        return response


def _told(error: Exception) -> str:
    """An error for people: one of the domain says all itself, another needs its kind."""
    return str(error) if isinstance(error, PixelReferError) else f"{type(error).__name__}: {error}"
