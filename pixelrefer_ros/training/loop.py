# SPDX-License-Identifier: Apache-2.0
"""The training loop both models share: schedule, log, and a state from which a stopped run goes on."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from pixelrefer_ros.errors import CheckpointError, ParameterError

WARM_UP = 0.03
"""Share of the steps over which the learning rates rise (paper, Sec. 6.1)."""
LOG, VALIDATION = "log.csv", "validation.csv"
STATE, PROGRESS = "state.safetensors", "progress.json"

_WEIGHTS, _MOMENTS = "weights/", "moments/"
_CLIP = 1.0
_BETAS = (0.9, 0.98)

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often.

    Attributes:
        steps: of the stage.
        log_every: steps between lines of the log.
        save_every: steps between saved states.
        minutes: stop after so many, to go on later; 0 never does.
        validate_every: steps between validations; 0 never does.
    """

    steps: int
    log_every: int = 20
    save_every: int = 500
    minutes: float = 0.0
    validate_every: int = 0


def parameter_groups(
    rates: Mapping[float, Iterable[nn.Module]], *, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups: each module with its own learning rate; norms, biases and embeddings do not decay.

    Args:
        rates: learning rate to the modules that learn with it; what does not require gradients is left out.
        weight_decay: of matrices.
    """
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for rate, modules in rates.items():
        decays: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for module in modules:
            embedded = {
                id(p)
                for m in module.modules()
                if isinstance(m, nn.Embedding)
                for p in m.parameters(recurse=False)
            }
            for parameter in module.parameters():
                if not parameter.requires_grad or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                matrix = parameter.dim() >= 2 and id(parameter) not in embedded
                (decays if matrix else others).append(parameter)
        groups.append({"params": decays, "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": others, "lr": rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


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
        """See the class."""
        self.stage, self.module, self.pace = stage, module, pace
        self._out = out
        out.mkdir(parents=True, exist_ok=True)
        self._optimizer = torch.optim.AdamW(groups, betas=_BETAS, fused=True)
        self._schedule = get_cosine_schedule_with_warmup(
            self._optimizer, int(WARM_UP * pace.steps), pace.steps
        )
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
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith(_MOMENTS):
                number, name = key.removeprefix(_MOMENTS).split("/")
                moments.setdefault(int(number), {})[name] = value
        known = self._optimizer.state_dict()
        self._optimizer.load_state_dict({"state": moments, "param_groups": known["param_groups"]})
        self.step = int(progress["step"])
        for group, rate in zip(self._optimizer.param_groups, self._schedule.base_lrs, strict=True):
            group["lr"] = rate * self._schedule.lr_lambdas[0](self.step)
        self._schedule.last_epoch = self.step
        return True

    def run(
        self,
        items: Iterable[Item],
        losses: Callable[[Item], Mapping[str, Tensor | float]],
        validate: Callable[[int], Mapping[str, float]] | None = None,
    ) -> None:
        """Trains until the items or the minutes end, and saves the state.

        Args:
            items: the data from step `step` on, one per step.
            losses: of one item; "loss" has gradients, everything is averaged into the log.
            validate: given the steps done, values for the validation's own log.
        """
        started = time.monotonic()
        sums: dict[str, float] = {}
        counted = 0
        with tqdm(total=self.pace.steps, initial=self.step, desc=self.stage, disable=None) as bar:
            for item in items:
                values = losses(item)
                self._update(values["loss"])
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(
                        value.detach() if isinstance(value, Tensor) else value
                    )
                counted += 1
                bar.update()
                if self.step % self.pace.log_every == 0 or self.finished:
                    means = {name: total / counted for name, total in sums.items()}
                    bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
                    self._log(LOG, means, time.monotonic() - started)
                    sums, counted = {}, 0
                every = self.pace.validate_every
                out_of_time = self.pace.minutes and time.monotonic() - started > 60 * self.pace.minutes
                if validate and every and (self.step % every == 0 or self.finished):
                    values = validate(self.step)
                    self._log(VALIDATION, values, time.monotonic() - started)
                    shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
                    bar.write(f"{self.stage} {self.step}: {shown}")
                if self.step % self.pace.save_every == 0 or self.finished or out_of_time:
                    self.save()
                if self.finished or out_of_time:
                    return

    def save(self) -> None:
        """Writes the state, so that a half-written one is never taken for a whole one."""
        state = {_WEIGHTS + k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()}
        for number, values in self._optimizer.state_dict()["state"].items():
            state |= {f"{_MOMENTS}{number}/{name}": value.detach().cpu() for name, value in values.items()}
        part = self._out / f"{STATE}.part"
        save_file(_untied(state), part)
        part.replace(self._out / STATE)
        progress = {"stage": self.stage, "step": self.step, "steps": self.pace.steps}
        (self._out / PROGRESS).write_text(json.dumps(progress) + "\n", encoding="utf-8")

    def _update(self, loss: Tensor | float) -> None:
        if not isinstance(loss, Tensor) or not torch.isfinite(loss):
            raise ParameterError(
                f"{self.stage}: the loss is {loss} at step {self.step}: lower the learning rate"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(
            [p for group in self._optimizer.param_groups for p in group["params"]], _CLIP
        )
        self._optimizer.step()
        self._schedule.step()
        self.step += 1

    def _log(self, name: str, means: Mapping[str, float], seconds: float) -> None:
        path = self._out / name
        row = {"stage": self.stage, "step": self.step, "seconds": round(seconds, 1)}
        row |= {"rate": self._optimizer.param_groups[0]["lr"], **{k: round(v, 5) for k, v in means.items()}}
        rows = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or [])
                rows = [] if set(row) <= set(columns) else list(reader)
        else:
            columns = []
        grown = columns + [column for column in row if column not in columns]
        # A later stage has rows of other questions: the table then grows by columns.
        with path.open("w" if grown != columns else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=grown)
            if grown != columns:
                writer.writeheader()
                writer.writerows(rows)
            writer.writerow(row)


def read_progress(out: Path) -> dict[str, Any] | None:
    """How far a run in this folder came; None if there is none.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = out / PROGRESS
    if not path.is_file():
        return None
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
        return {
            "stage": str(progress["stage"]),
            "step": int(progress["step"]),
            "steps": int(progress["steps"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}): remove it to begin anew") from error


def _untied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shared memory made separate: the file format refuses two names for one tensor."""
    seen: set[int] = set()
    untied = {}
    for name, value in state.items():
        untied[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return untied
