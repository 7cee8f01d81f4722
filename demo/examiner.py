# SPDX-License-Identifier: Apache-2.0
"""An agent that knows the truth about the scene: it points, asks, and marks every answer.

Like `agent.py` it knows nothing of the node but its interface. The truth never leaves this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
from agent import PATIENCE_S, ask, keep, newest_stamp
from exam import HISTORY_S, PLAN, VIDEO_FRAMES, Asked, Exam, Step, Verdict
from scenes import SHAPES

from pixelrefer_ros.errors import NoFrame
from pixelrefer_ros.ros import PixelReferClient
from pixelrefer_ros.training.world import Renderer, Sight, cast_scene, region_of
from pixelrefer_ros.types import AnswerStatus

_MAX_TOKENS = 72  # longer than any right answer
_SILENCE_S = 3.0  # without a newer image: the camera has stopped
_PAUSE_S = 0.3
_TRIES = 3  # of a question whose answer could not be marked
_NAMES = "ABCDEFGH"
_VERDICTS = {True: "right", False: "WRONG", None: "does not count"}


class Examiner:
    """Takes the exam to a node.

    Args:
        client: the node.
        exam: questions and truth.
        scene: its name, for the records.
        seed: of wordings.
        out: takes a JSON object a line.

    Attributes:
        asked: how many questions were asked.
        failed: how many of them met a fault of the node.
        unasked: the kinds of questions that had no clear answer whenever the agent was free to ask.
    """

    def __init__(self, client: PixelReferClient, exam: Exam, *, scene: str, seed: int, out: TextIO) -> None:
        self._client, self._exam, self._scene, self._out = client, exam, scene, out
        self._rng = np.random.default_rng(seed)
        self._ids: dict[int, int] = {}
        self._since: dict[int, int] = {}
        self.asked = self.failed = 0
        self.unasked: list[str] = []

    def point(self) -> None:
        """Start every object in view, every second one with a point, the others with a box."""
        while not self._ids:
            stamp = newest_stamp(self._client)
            index = self._exam.index(stamp)
            if not 0 <= index < self._exam.sight.scene.frames:
                time.sleep(0.02)  # still an image of an earlier scene
                continue
            try:
                for place, number in enumerate(self._exam.in_view(index)):
                    self._point_at(number, index, stamp, pointing=place % 2 == 1)
            except NoFrame:
                self._client.clear()  # the node has gone on meanwhile; point in a newer image
                self._ids.clear()
                self._since.clear()

    def examine(self) -> None:
        """Ask until everything is asked, or the camera has stopped and nothing more can be asked."""
        left = [(step, _TRIES) for step in PLAN]
        newest, changed_s = 0, time.monotonic()
        while left and time.monotonic() - changed_s < _SILENCE_S:
            stamp = newest_stamp(self._client)
            if stamp != newest:
                newest, changed_s = stamp, time.monotonic()
            found = self._possible([step for step, _ in left], self._exam.index(stamp))
            if found is None:
                time.sleep(0.02)
                continue
            place, asked = found
            step, tries = left.pop(place)
            verdict = self._put(step, asked)
            if verdict.right is None and tries > 1:
                left.append((step, tries - 1))
            changed_s = time.monotonic()
            time.sleep(_PAUSE_S)
        self.unasked = [" or ".join(step.kinds) for step, tries in left if tries == _TRIES]

    def _point_at(self, number: int, index: int, stamp_ns: int, *, pointing: bool) -> None:
        mask = self._exam.sight.renderer.layers(index).visible[number]
        region = region_of(mask, 0, "point" if pointing else "box")
        region = replace(region, label=_NAMES[number], stamp_ns=stamp_ns)
        self._ids[number], self._since[number] = self._client.add_region(region), index
        way = "clicks on" if pointing else "draws a box around"
        print(f"agent  {way} {_NAMES[number]}: object {self._ids[number]}", flush=True)

    def _possible(self, steps: list[Step], index: int) -> tuple[int, Asked] | None:
        """The first step that has a clear answer now."""
        for place, step in enumerate(steps):
            asked = self._exam.question(step, index, self._since, int(self._rng.integers(1 << 31)))
            if asked is not None:
                return place, asked
        return None

    def _put(self, step: Step, asked: Asked) -> Verdict:
        for number in asked.draft.objects:  # who has just been asked about comes last the next time
            self._since[number] = self._since.pop(number)
        names = {_NAMES[number]: self._ids[number] for number in asked.draft.objects}
        looks = {"frames": VIDEO_FRAMES, "history_s": HISTORY_S} if asked.video else {}
        answer = ask(self._client, asked.draft.question, names, max_tokens=_MAX_TOKENS, **looks)
        self.asked += 1
        self.failed += answer.status is AnswerStatus.INTERNAL_ERROR
        verdict = self._exam.mark(asked, answer)
        print(f"       {_VERDICTS[verdict.right]}", end="")
        print("" if verdict.right else f"; the truth: {verdict.truth}", flush=True)
        marks = {"right": verdict.right, "truth": verdict.truth, "reason": verdict.reason}
        keep(answer, names, self._scene, self._out, step=PLAN.index(step), kind=asked.kind, **marks)
        return verdict


def main() -> int:
    """Point, ask, mark; the exit code says whether the exam could be taken, not how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("script", type=Path, help="JSON: the scene's seed, and the stamp of its first image")
    parser.add_argument("--answers", type=Path, required=True, help="the .jsonl to add to")
    parser.add_argument("--node", default="/pixelrefer")
    args = parser.parse_args()
    script = json.loads(args.script.read_text(encoding="utf-8"))
    sight = Sight(Renderer(cast_scene(script["scene_seed"], SHAPES)))
    _ = sight.shares  # measured now: later the node has the processor
    exam = Exam(sight, script["start_ns"])
    with PixelReferClient(args.node) as client, args.answers.open("a", encoding="utf-8") as out:
        client.wait_ready(PATIENCE_S)
        client.clear()  # of what an earlier agent pointed at
        examiner = Examiner(client, exam, scene=script["scene"], seed=script["scene_seed"], out=out)
        examiner.point()
        examiner.examine()
    for kinds in examiner.unasked:
        print(f"agent  did not ask ({kinds}): never a clear answer when there was time to ask", flush=True)
    return 0 if examiner.asked and not examiner.failed else 1


if __name__ == "__main__":
    sys.exit(main())
