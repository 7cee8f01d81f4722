# SPDX-License-Identifier: Apache-2.0
"""`/diagnostics` at 1 Hz of the steady clock: rates, latencies, queues, memory, model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from pixelrefer_ros.parameters import Parameters
from pixelrefer_ros.ros import qos
from pixelrefer_ros.ros.health import Health
from pixelrefer_ros.ros.inputs import ImageInput
from pixelrefer_ros.ros.switch import SwitchedPerception
from pixelrefer_ros.ros.throttled_log import ThrottledLog

_PERIOD_S = 1.0


class Diagnostics:
    """Reports on the node while it is active."""

    def __init__(
        self,
        node: Node,
        work: SwitchedPerception,
        log: ThrottledLog,
        camera: Callable[[], ImageInput | None],
        parameters: Parameters,
    ) -> None:
        """Start to report.

        Args:
            node: whose health it is.
            work: tells its counters and durations.
            log: tells what went wrong, and how often.
            camera: gives the image subscription; None while switched off.
            parameters: as configured.
        """
        self._node, self._work, self._log, self._camera = node, work, log, camera
        self._parameters = parameters
        self._tracked, self._tracked_at = 0, time.monotonic()
        self._health = Health()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        # The steady clock: with sim time a paused simulation is just when one looks at diagnostics.
        self._timer = node.create_timer(
            _PERIOD_S, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """Report no more."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def publish(self) -> None:
        """Publish the state of now."""
        message = DiagnosticArray(status=[self._status()])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _status(self) -> DiagnosticStatus:
        camera, stats = self._camera(), self._work.stats()
        level, text = self._health.judge(
            image_age_s=camera.age_s() if camera else None,
            frame_age_s=camera.frame_age_s() if camera else 0.0,
            stats=stats,
        )
        values = self._values(camera, stats or {})
        return DiagnosticStatus(
            level=level,
            name=f"{self._node.get_fully_qualified_name()}: perception",
            message=text,
            hardware_id=self._parameters.device,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )

    def _values(self, camera: ImageInput | None, stats: dict[str, Any]) -> dict[str, object]:
        values: dict[str, object] = {
            "input_fps": f"{camera.rate_hz() if camera else 0.0:.2f}",
            "tracked_fps": f"{self._tracked_rate(stats.get('frames_tracked', 0)):.2f}",
            "images_received": camera.received if camera else 0,
            **{name: value for name, value in stats.items() if isinstance(value, int)},
            "objects": self._objects(),
        }
        stages = {"convert": camera.conversions_s() if camera else [], **stats.get("stages", {})}
        for stage, durations in stages.items():
            for percent, value in zip((50, 99), _percentiles_ms(durations), strict=True):
                values[f"{stage}_p{percent}_ms"] = f"{value:.2f}"
        for kind, count in self._log.counts().items():
            values[kind] = count
        values["memory_mb"] = f"{_resident_mb():.0f}"
        if self._parameters.device.startswith("cuda"):
            values["gpu_memory_mb"] = f"{_gpu_mb(self._parameters.device):.0f}"
        # What was chosen, not what was asked for: an exported folder has its own precision, too.
        for what, in_use in self._work.perception.backends.items():
            values["backend" if what == "model" else f"{what}_backend"] = in_use
        values["model"] = self._work.perception.model
        values["tracker"] = self._parameters.tracker_model if self._parameters.tracking else "off"
        return values

    def _objects(self) -> int:
        scene = self._work.perception.scene()
        return len(scene.objects) if scene else 0

    def _tracked_rate(self, tracked: int) -> float:
        now = time.monotonic()
        elapsed, before = now - self._tracked_at, self._tracked
        self._tracked, self._tracked_at = tracked, now
        # Fewer than before: work was switched off and on, and its counters began anew.
        return max(0, tracked - before) / elapsed if elapsed > 0 else 0.0


def _percentiles_ms(durations_s: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile, milliseconds; zeros of nothing."""
    if not len(durations_s):
        return 0.0, 0.0
    p50, p99 = np.percentile(np.asarray(durations_s, np.float64) * 1e3, (50, 99))
    return float(p50), float(p99)


def _gpu_mb(device: str) -> float:
    """Memory that torch holds on a GPU, ``cuda`` or ``cuda:N``, MB."""
    torch: Any = sys.modules.get("torch")  # the models have imported it; diagnostics alone must not
    return float(torch.cuda.memory_allocated(device)) / 1e6 if torch is not None else 0.0


def _resident_mb() -> float:
    """Memory this process occupies, MB; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
