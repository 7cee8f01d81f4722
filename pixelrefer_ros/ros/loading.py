# SPDX-License-Identifier: Apache-2.0
"""Loading the models in a thread of its own, so that the node can be stopped while they load."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pixelrefer_ros.parameters import Parameters, perception_settings

if TYPE_CHECKING:
    from pixelrefer_ros.perception import Perception


def load_perception(parameters: Parameters) -> Perception:
    """Load the models that the parameters name, and join them.

    Raises:
        PixelReferError: a model cannot be found or loaded, or a setting is refused.
    """
    # Imported here: this loads torch, which takes seconds in which the node would not hear a signal.
    from pixelrefer_ros.model import PixelReferLite
    from pixelrefer_ros.model_source import resolve_model, resolve_tracker
    from pixelrefer_ros.perception import Perception
    from pixelrefer_ros.tracking import StaticTracker, StreamTracker, Tracker

    settings = perception_settings(parameters)
    language = PixelReferLite.from_pretrained(
        resolve_model(parameters.model),
        device=parameters.device,
        dtype=parameters.precision,
        backend=parameters.backend,
    )
    tracker: Tracker = StaticTracker()
    if parameters.tracking:
        tracker = StreamTracker.from_pretrained(
            resolve_tracker(parameters.tracker_model),
            device=parameters.device,
            dtype=parameters.precision,
            max_objects=parameters.max_objects,
        )
    return Perception(language, tracker, settings)


class Loading:
    """Models being loaded; may be abandoned, never interrupted."""

    def __init__(self, parameters: Parameters) -> None:
        """Start to load."""
        self._perception: Perception | None = None
        self._error: Exception | None = None
        self._parameters = parameters
        self._thread = threading.Thread(target=self._run, name="pixelrefer-loading", daemon=True)
        self._thread.start()

    def done(self, timeout_s: float) -> bool:
        """Wait so long at most; True if loading has ended, one way or the other."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> Perception:
        """What was loaded, once `done`.

        Raises:
            Exception: whatever kept it from being loaded.
        """
        if self._perception is None:
            raise self._error or RuntimeError("the models are still being loaded")
        return self._perception

    def _run(self) -> None:
        try:
            self._perception = load_perception(self._parameters)
        except Exception as error:  # told by `result`, on the thread that waits for it
            self._error = error
