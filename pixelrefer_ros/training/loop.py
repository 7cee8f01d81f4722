# SPDX-License-Identifier: Apache-2.0
"""The training loop both models share: schedule, log, and a state from which a stopped run goes on."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_wsd_schedule

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.runtime.whole_files import write_tensors, write_whole
from pixelrefer_ros.training import processes
from pixelrefer_ros.training.optimizers import optimizers_of
from pixelrefer_ros.training.table import append_row

WARM_UP = 0.03
"""Share of the steps over which the learning rates rise (paper, Sec. 6.1)."""
LOG, VALIDATION = "log.csv", "validation.csv"
STATE, PROGRESS = "state.safetensors", "progress.json"

_WEIGHTS, _MOMENTS, _PROGRESS = "weights/", "moments/", "progress"
_CLIP = 1.0

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often.

    Attributes:
        steps: of the stage.
        log_every: steps between lines of the log.
        save_every: steps between saved states.
        deadline: stop then, to go on later, on the clock of `time.monotonic`, s; see `deadline_in`.
        validate_every: steps between validations; 0 never does.
        flat: share of the schedule, after the warm-up, before learning rates begin to fall.
        schedule: its length, in stages' lengths: above 1, the stage ends before rates have fallen to
            nothing, since the next one begins high again.
    """

    steps: int
    log_every: int = 20
    save_every: int = 500
    deadline: float = math.inf
    validate_every: int = 0
    flat: float = 0.0
    schedule: float = 1.0


class Diverged(ParameterError):
    """The loss is no number: what was learned is of no use, and is not saved."""


class Loop:
    """One stage of training.

    Args:
        stage: its name, in the log and in the state.
        module: what is trained; its ``state_dict`` is what a stopped run needs.
        groups: of `parameter_groups`.
        out: folder of the log and the state.
        pace: how long and how often.

    Attributes:
        step: steps done; above 0 where a stopped run goes on.
    """

    def __init__(
        self, stage: str, module: nn.Module, groups: list[dict[str, Any]], out: Path, pace: Pace
    ) -> None:
        self.stage, self.module, self.pace = stage, module, pace
        self._out = out
        out.mkdir(parents=True, exist_ok=True)
        self._optimizers = optimizers_of(groups)
        length = round(pace.steps * pace.schedule)
        self._schedules = [
            get_wsd_schedule(
                optimizer,
                num_warmup_steps=int(WARM_UP * length),
                num_decay_steps=length - int(WARM_UP * length) - int(pace.flat * length),
                num_training_steps=length,
                decay_type="cosine",
            )
            for optimizer in self._optimizers
        ]
        self.step = 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.pace.steps

    def resume(self) -> bool:
        """Takes up the state of this stage, if the folder holds one.

        Returns:
            Whether it did.

        Raises:
            CheckpointError: the state belongs to another model.
            ParameterError: it was of a stage with another number of steps, so that its schedule would jump.
        """
        progress = read_progress(self._out)
        if progress is None or progress["stage"] != self.stage:
            return False
        if progress["steps"] != self.pace.steps:
            raise ParameterError(
                f"{self._out / PROGRESS} is of a run of {progress['steps']} steps, this one has "
                f"{self.pace.steps}: give the same number, or another --out"
            )
        state = load_file(self._out / STATE)
        weights = {k.removeprefix(_WEIGHTS): v for k, v in state.items() if k.startswith(_WEIGHTS)}
        try:
            self.module.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self._out / STATE} is of another model: give another --out ({error})"
            ) from error
        self.step = int(progress["step"])
        for place, (optimizer, schedule) in enumerate(zip(self._optimizers, self._schedules, strict=True)):
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in state.items():
                if key.startswith(f"{_MOMENTS}{place}/"):
                    number, name = key.removeprefix(f"{_MOMENTS}{place}/").split("/")
                    moments.setdefault(int(number), {})[name] = value
            known = optimizer.state_dict()
            optimizer.load_state_dict({"state": moments, "param_groups": known["param_groups"]})
            for group, rate in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
                group["lr"] = rate * schedule.lr_lambdas[0](self.step)
            schedule.last_epoch = self.step
        return True

    def run(
        self,
        items: Iterable[Item],
        losses: Callable[[Item], Mapping[str, Tensor | float]],
        validate: Callable[[int], Mapping[str, float]] | None = None,
    ) -> None:
        """Trains until the items end or the deadline has passed, and saves the state; one step at least.

        Whatever fails on the way, the state is saved before the error is raised: the run can go on.

        Args:
            items: the data from step `step` on, one per step.
            losses: of one item; "loss" has gradients, everything is averaged into the log.
            validate: given the steps done, values for the validation's own log.

        Raises:
            Diverged: the loss is no number.
            Exception: of the items, the losses or the validation.
        """
        began = self.step
        try:
            self._run(items, losses, validate)
        except Diverged:
            raise
        except Exception:
            if self.step > began:
                self.save()
            raise

    def _run(
        self,
        items: Iterable[Item],
        losses: Callable[[Item], Mapping[str, Tensor | float]],
        validate: Callable[[int], Mapping[str, float]] | None,
    ) -> None:
        processes.wait()  # all have read the state that the first one will write anew
        processes.share(self.module)
        started = time.monotonic()
        sums: dict[str, float] = {}
        counts: Counter[str] = Counter()  # of each: not every step has all
        hidden = None if processes.is_first() else True
        with tqdm(total=self.pace.steps, initial=self.step, desc=self.stage, disable=hidden) as bar:
            for item in items:
                values = losses(item)
                self._update(values["loss"])
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(
                        value.detach() if isinstance(value, Tensor) else value
                    )
                counts.update(values.keys())
                bar.update()
                if self.step % self.pace.log_every == 0 or self.finished:
                    means = {name: total / counts[name] for name, total in sums.items()}
                    bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
                    self._log(LOG, means, time.monotonic() - started)
                    sums, counts = {}, Counter()
                every = self.pace.validate_every
                out_of_time = processes.agreed(time.monotonic() > self.pace.deadline)
                watched = validate and every and (self.step % every == 0 or self.finished)
                if validate and watched and processes.is_first():
                    values = validate(self.step)
                    self._log(VALIDATION, values, time.monotonic() - started)
                    shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
                    bar.write(f"{self.stage} {self.step}: {shown}")
                # Validation may have written weights: with no state beside them no run could go on there.
                stateless = watched and not (self._out / PROGRESS).is_file()
                if self.step % self.pace.save_every == 0 or self.finished or out_of_time or stateless:
                    self.save()
                if self.finished or out_of_time:
                    return

    def save(self) -> None:
        """Writes the state, so that a half-written one is never taken for a whole one."""
        if not processes.is_first():
            return
        state = {_WEIGHTS + k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()}
        for place, optimizer in enumerate(self._optimizers):
            for number, values in optimizer.state_dict()["state"].items():
                moments = {f"{_MOMENTS}{place}/{number}/{name}": value for name, value in values.items()}
                state |= {key: value.detach().cpu() for key, value in moments.items()}
        progress = json.dumps({"stage": self.stage, "step": self.step, "steps": self.pace.steps})
        write_tensors(self._out / STATE, _untied(state), {_PROGRESS: progress})
        write_whole(self._out / PROGRESS, f"{progress}\n".encode())

    def _update(self, loss: Tensor | float) -> None:
        if not isinstance(loss, Tensor) or not torch.isfinite(loss):
            raise Diverged(f"{self.stage}: the loss is {loss} at step {self.step}: lower the learning rate")
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        taught = [
            p for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]
        ]
        processes.average_gradients(taught)
        nn.utils.clip_grad_norm_(taught, _CLIP)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()
        self.step += 1

    def _log(self, name: str, means: Mapping[str, float], seconds: float) -> None:
        if not processes.is_first():
            return
        row = {"stage": self.stage, "step": self.step, "seconds": round(seconds, 1)}
        row |= {
            "rate": self._optimizers[0].param_groups[0]["lr"],
            **{k: round(v, 5) for k, v in means.items()},
        }
        append_row(self._out / name, row)


def deadline_in(minutes: float) -> float:
    """On the clock of `time.monotonic`, s: so many minutes from now; of 0 minutes, never."""
    return time.monotonic() + 60 * minutes if minutes > 0 else math.inf


def read_progress(out: Path) -> dict[str, Any] | None:
    """How far a run in this folder came; None if there is none.

    The state says it itself: the file beside it is a moment older where a run was killed between the two.

    Raises:
        CheckpointError: a file cannot be read.
    """
    path = out / PROGRESS
    if not path.is_file():
        return None
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
        if (out / STATE).is_file():
            path = out / STATE
            with safe_open(path, "pt") as file:
                progress = json.loads((file.metadata() or {}).get(_PROGRESS, "null")) or progress
        return {
            "stage": str(progress["stage"]),
            "step": int(progress["step"]),
            "steps": int(progress["steps"]),
        }
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}): begin anew with another --out") from error


def _untied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shared memory made separate: the file format refuses two names for one tensor."""
    seen: set[int] = set()
    untied = {}
    for name, value in state.items():
        untied[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return untied
