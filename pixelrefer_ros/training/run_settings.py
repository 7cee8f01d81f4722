# SPDX-License-Identifier: Apache-2.0
"""What every training run can be told, of whichever model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pixelrefer_ros.training.loop import Pace, deadline_in
from pixelrefer_ros.training.processes import own_seed

RunSettingsT = TypeVar("RunSettingsT", bound="RunSettings")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """One training run.

    Attributes:
        seed: of the weights and of what is shown.
        start_from: a checkpoint to go on from, instead of random weights.
        weight_decay: of matrices.
        workers: processes that draw what is shown.
        device: "cpu" or "cuda".
        bf16: compute in bfloat16 where that is safe; weights stay float32.
        log_every: steps between lines of the log.
        save_every: steps between saved states.
        validate_every: steps between validations, after which the best weights so far are kept; 0: never.
        minutes: stop each call after so many, to go on later; 0 never does.
        deadline: when this call stops, see `Pace`; None: `minutes` after each stage begins. See `begun`.
        processes: that train together, each shown as much in a step as is said above; see `run_together`.
        process: the number of this one.
    """

    seed: int = 0
    start_from: Path | None = None
    weight_decay: float = 0.05
    workers: int = 2
    device: str = "cpu"
    bf16: bool = False
    log_every: int = 20
    save_every: int = 500
    validate_every: int = 500
    minutes: float = 0.0
    deadline: float | None = None
    processes: int = 1
    process: int = 0

    @property
    def shown_by(self) -> int:
        """The seed of what this process is shown; weights begin by `seed` in all of them."""
        return own_seed(self.seed, self.process)

    def begun(self: RunSettingsT) -> RunSettingsT:
        """The same for a call that begins now: its minutes are those of all its stages together."""
        return replace(self, deadline=deadline_in(self.minutes))

    def pace(self, steps: int, *, flat: float = 0.0, schedule: float = 1.0) -> Pace:
        """Of a stage of so many steps, see `Pace`."""
        return Pace(
            steps,
            self.log_every,
            self.save_every,
            deadline_in(self.minutes) if self.deadline is None else self.deadline,
            self.validate_every,
            flat,
            schedule,
        )
