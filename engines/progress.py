# SPDX-License-Identifier: Apache-2.0
"""TensorRT's build phases as progress bars."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

DEEPEST = 2
"""Phases nested deeper than this come by the thousand and are not shown."""

Bar = Callable[..., Any]
"""Makes a bar, as ``tqdm.tqdm`` does: called with total, desc, position, leave; has update and close."""


def progress_monitor(trt: ModuleType, title: str, bar: Bar | None, stopped: Callable[[], bool]) -> Any:
    """A ``tensorrt.IProgressMonitor`` that shows a bar for each outer phase, and can end the build.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        title: what is being built.
        bar: makes a bar; None: nothing is shown.
        stopped: asked at every step: True ends the build. (TensorRT calls from its own threads; an interrupt
            that Python has caught meanwhile would else wait for the end of the build.)
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc] # the module is an argument
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._depths: dict[str, int] = {}
            self._bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            depth = self._depths.get(parent_phase, 0) + 1 if parent_phase else 1
            self._depths[phase_name] = depth
            if bar is not None and depth <= DEEPEST and phase_name not in self._bars:
                description = f"{title}: {phase_name}" if depth == 1 else f"  {phase_name}"
                self._bars[phase_name] = bar(
                    total=num_steps, desc=description, position=depth - 1, leave=False
                )

        def step_complete(self, phase_name: str, step: int) -> bool:
            shown = self._bars.get(phase_name)
            if shown is not None:
                shown.update(step + 1 - shown.n)
            return not stopped()

        def phase_finish(self, phase_name: str) -> None:
            self._depths.pop(phase_name, None)
            shown = self._bars.pop(phase_name, None)
            if shown is not None:
                shown.close()

    return Monitor()
