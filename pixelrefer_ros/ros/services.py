# SPDX-License-Identifier: Apache-2.0
"""The services. Each replies at once, except `~/ask`, whose reply waits for the answer and stops nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.ros import conversions, qos
from pixelrefer_ros.ros.asking import ask_or_refuse
from pixelrefer_ros.ros.deferred import DeferredReply, create_deferred_service
from pixelrefer_ros.ros.switch import SwitchedPerception
from pixelrefer_ros.srv import AddRegion, AskQuestion, ListObjects, RemoveObject
from pixelrefer_ros.types import Answer, AnswerStatus


class Services:
    """`~/add_region`, `~/remove_object`, `~/clear`, `~/list_objects`, `~/ask`, `~/set_enabled`."""

    def __init__(self, node: Node, work: SwitchedPerception, set_enabled: Callable[[bool], str]) -> None:
        """Offer the services.

        Args:
            node: offers them.
            work: does what they ask for.
            set_enabled: switches work on or off, and says what it did.
        """
        self._node, self._work, self._switch = node, work, set_enabled
        offered: list[tuple[Any, str, Callable[[Any, Any], Any]]] = [
            (AddRegion, "~/add_region", self._add_region),
            (RemoveObject, "~/remove_object", self._remove_object),
            (Trigger, "~/clear", self._clear),
            (ListObjects, "~/list_objects", self._list_objects),
            (SetBool, "~/set_enabled", self._set_enabled),
        ]
        self._services = [
            node.create_service(kind, name, callback, qos_profile=qos.REQUESTS)
            for kind, name, callback in offered
        ]
        self._services.append(create_deferred_service(node, AskQuestion, "~/ask", self._ask))

    def close(self) -> None:
        """Offer them no more."""
        for service in self._services:
            self._node.destroy_service(service)

    def _add_region(self, request: AddRegion.Request, response: AddRegion.Response) -> AddRegion.Response:
        try:
            response.object_id = self._work.add_region(conversions.to_region(request.region))
        except Exception as error:  # every request gets its reply
            response.status, response.error = self._refusal(error)
        return response

    def _remove_object(
        self, request: RemoveObject.Request, response: RemoveObject.Response
    ) -> RemoveObject.Response:
        try:
            self._work.perception.remove_object(request.object_id)
        except Exception as error:  # every request gets its reply
            response.status, response.error = self._refusal(error)
        return response

    def _clear(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._work.perception.clear()
        response.success = True
        return response

    def _list_objects(
        self, _request: ListObjects.Request, response: ListObjects.Response
    ) -> ListObjects.Response:
        if (scene := self._work.perception.scene()) is not None:
            response.objects = conversions.scene_to_objects(scene)
        return response

    def _set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.message = self._switch(request.data)
        response.success = True
        return response

    def _ask(self, request: AskQuestion.Request, reply: DeferredReply) -> None:
        def send(answer: Answer) -> None:
            reply.send(AskQuestion.Response(answer=conversions.answer_to_msg(answer)))

        ask_or_refuse(self._work, request.question, on_answer=send)

    def _refusal(self, error: Exception) -> tuple[int, str]:
        if isinstance(error, PixelReferError):
            return int(error.status), str(error)
        self._node.get_logger().error(f"a service failed: {type(error).__name__}: {error}")
        return int(AnswerStatus.INTERNAL_ERROR), f"a fault of the node ({type(error).__name__}): see its log"
