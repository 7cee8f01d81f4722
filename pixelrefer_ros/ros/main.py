# SPDX-License-Identifier: Apache-2.0
"""The node's process: starts it, spins it, and stops it within two seconds of SIGINT or SIGTERM.

rclpy's own signal handling can hang or raise while callbacks run. Here a signal only sets an event; the
main thread waits for it, and then stops the node, the executor and the context, in this order.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rclpy.executors import SingleThreadedExecutor

    from pixelrefer_ros.ros.node import PixelReferNode

_STOP_S = 1.6
"""Stopping may take so long; then the process ends with whatever a network is still computing."""
_LOOK_S = 0.1
_LAST_RESULTS_S = 0.2
_SENDING_S = 0.05
"""What concluded goals still need to be sent."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MMAP_THRESHOLD, _TRIM_THRESHOLD = 32 << 20, 256 << 20


def main(args: Sequence[str] | None = None) -> int:
    """Run one node until SIGINT or SIGTERM; with the parameter `build_only`, until the engines are built.

    Args:
        args: ROS arguments; those of the command line if None.

    Returns:
        1 if the node could not start. Else it does not return: when the node is told to stop, or has built
        what it was started for, the process ends with `PixelReferNode.exit_code`.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # before rclpy is imported: that takes a while
        signal.signal(number, lambda _number, _stack: stopping.set())
    _keep_freed_image_memory()

    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    from pixelrefer_ros.ros.node import PixelReferNode

    context = Context()
    try:
        context.init(list(args) if args is not None else None)
        node = PixelReferNode(context=context, stopping=stopping)
    except Exception as error:  # wrong parameters or ROS arguments: one line says which
        print(f"pixelrefer: cannot start: {error}", file=sys.stderr)
        context.try_shutdown()
        return 1
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    spinning = threading.Thread(target=_spin, args=(executor, node), name="pixelrefer-executor", daemon=True)
    spinning.start()
    while not stopping.wait(_LOOK_S):
        pass  # a signal that comes just before a wait without end would not wake it
    _stop(executor, node, spinning)
    context.try_shutdown()
    _leave(node.exit_code)


def _spin(executor: SingleThreadedExecutor, node: PixelReferNode) -> None:
    """Spin until told to stop; what a callback raises is logged, and spinning goes on."""
    while executor.context.ok() and not node.finished.is_set():
        try:
            executor.spin_once()
        except Exception as error:  # no message and no client may end the node
            if not node.finished.is_set():
                node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")


def _stop(executor: SingleThreadedExecutor, node: PixelReferNode, spinning: threading.Thread) -> None:
    """Finalize the node on the executor's thread, let it send the last results, then end that thread."""
    deadline = time.monotonic() + _STOP_S
    stopped = threading.Event()

    def stop() -> None:
        try:
            node.stop()
        finally:
            stopped.set()

    executor.create_task(stop)
    stopped.wait(deadline - time.monotonic())
    last = min(deadline, time.monotonic() + _LAST_RESULTS_S)
    while node.goals_running and time.monotonic() < last:
        time.sleep(0.01)
    time.sleep(_SENDING_S)
    node.finished.set()
    executor.create_task(lambda: None)  # wakes it up
    spinning.join(max(0.1, deadline - time.monotonic()))
    if spinning.is_alive():
        _leave(node.exit_code)
    executor.shutdown()
    node.destroy_node()


def _leave(code: int) -> NoReturn:
    """End the process now with this exit code; everything of ROS is closed.

    Tearing Python and torch down would take a second more, and crash or wait where a network still
    computes.
    """
    atexit._run_exitfuncs()  # removes temporary folders, ends Python's own logging
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # what rcutils has logged
    os._exit(code)


def _keep_freed_image_memory() -> None:
    """Let glibc keep the memory of images between frames: fetching it anew costs 1 ms a frame."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
    mallopt(_M_ARENA_MAX, 1)  # the arenas of other threads heed neither: they unmap what becomes empty


if __name__ == "__main__":
    sys.exit(main())
