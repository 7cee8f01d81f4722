# SPDX-License-Identifier: Apache-2.0
"""Loading the models in a thread of its own, so that the node can be stopped while they load."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

from pixelrefer_ros.model_source import load_perception
from pixelrefer_ros.parameters import Parameters

if TYPE_CHECKING:
    from pixelrefer_ros.perception import Perception


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
            perception = load_perception(self._parameters)
            # What is there now stays: hundreds of thousands of objects of torch and the models. Walking
            # through them, Python's collector would stop the camera for half a second every now and then.
            gc.collect()
            gc.freeze()
            self._perception = perception
        except Exception as error:  # told by `result`, on the thread that waits for it
            self._error = error
