# SPDX-License-Identifier: Apache-2.0
"""A service whose reply comes later, from another thread.

rclpy sends what a service callback returns as soon as it returns. A callback that waits would stop the
camera, and a coroutine that waits makes the executor spin without rest. So the callback here returns a
`DeferredReply`; the service keeps the request's header in it, and `DeferredReply.send` answers later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.service import Service

from pixelrefer_ros.ros import qos


class DeferredReply:
    """The reply still owed to one request; may be sent once, from any thread."""

    def __init__(self) -> None:
        """Owe a reply whose receiver is not known yet."""
        self._lock = threading.Lock()
        self._send: Callable[[Any], None] | None = None
        self._response: Any = None

    def send(self, response: Any) -> None:
        """Send the reply; a requester that went away, or a service that is closed, is no error."""
        with self._lock:
            self._response = response
            send = self._send
        if send is not None:
            _send_quietly(send, response)

    def address(self, send: Callable[[Any], None]) -> None:
        """Say how to reach the requester; sends at once what was already replied."""
        with self._lock:
            self._send = send
            response = self._response
        if response is not None:
            _send_quietly(send, response)


def _send_quietly(send: Callable[[Any], None], response: Any) -> None:
    try:
        send(response)
    except (rclpy_implementation.RCLError, InvalidHandle):
        return  # nobody is left to be told


def create_deferred_service(
    node: Node,
    srv_type: Any,
    name: str,
    callback: Callable[[Any, DeferredReply], None],
) -> Service:
    """Create a service that replies when it wants to.

    Args:
        node: the node it belongs to.
        srv_type: the service type.
        name: the service name.
        callback: given the request and the reply owed; returns at once.
    """

    def start(request: Any, _response: Any) -> DeferredReply:
        reply = DeferredReply()
        callback(request, reply)
        return reply

    service = node.create_service(srv_type, name, start, qos_profile=qos.REQUESTS)
    send_now = service.send_response

    def send_response(response: Any, header: Any) -> None:
        if isinstance(response, DeferredReply):
            response.address(lambda late: send_now(late, header))
        else:
            send_now(response, header)

    # The executor calls `service.send_response(callback's result, header)`: this instance's own one.
    service.send_response = send_response  # type: ignore[method-assign]
    return service
