# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: camera, node, agent and recorder, each a process, joined by DDS alone.

With trained models in `models/` a video of the shapes world is shown, and every answer is marked; without
them, the photographs are. `--scenes` chooses.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from exam import PLAN
from scenes import PHOTOGRAPHS, TOPIC, DemoScene, PhotographScene, ShapesScene

from pixelrefer_ros.model_source import SHIPPED_MODEL, SHIPPED_TRACKER, TINY_RANDOM, embedded_models

ANSWERS = "answers.jsonl"
_HERE = Path(__file__).resolve().parent
_START_S, _AGENT_S, _STOP_S = 60.0, 180.0, 15.0
_SHOWN = 100  # letters of an answer in the table


@contextlib.contextmanager
def process(script: str, *arguments: str, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python script, or a module (``-m name``), until the block ends; then SIGINT, at last SIGKILL.

    Args:
        script: the file in this folder, or ``-m`` and the module's name.
        arguments: of the script.
        log: the file that takes its output; None leaves it on the screen.
    """
    where = script.split() if script.startswith("-m ") else [str(_HERE / script)]
    with contextlib.ExitStack() as opened:
        output = opened.enter_context(log.open("wb")) if log is not None else None
        child = subprocess.Popen(
            [sys.executable, *where, *arguments], stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield child
        finally:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def until(happened: Callable[[], bool], timeout_s: float) -> None:
    """Wait for something, or for so long at most."""
    deadline = time.monotonic() + timeout_s
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.1)


def parameters(values: dict[str, str]) -> list[str]:
    """ROS arguments that set parameters."""
    return [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]


def own_domain() -> None:
    """Keep to this machine, and apart from other ROS systems on it, unless the user chose a domain."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100 + 1))


def run(out: Path, model: str, tracker: str, scenes: Sequence[DemoScene]) -> int:
    """Play scenes to one node; the exit code says whether the agent got every answer."""
    answers, video, picture, node_log, recorder_log = (
        out / name for name in (ANSWERS, "overlay.mp4", "overlay.png", "node.log", "recorder.log")
    )
    for old in (answers, video, picture):
        old.unlink(missing_ok=True)
    node_arguments = ["--ros-args", "-r", f"image:={TOPIC}"]
    node_arguments += parameters({"model": model, "tracker_model": tracker, "max_tokens": "24"})
    failed = False
    with (
        process("-m pixelrefer_ros.ros.main", *node_arguments, log=node_log) as node,
        process("recorder.py", str(video), "--picture", str(picture), log=recorder_log) as recorder,
    ):
        until(lambda: recorder_log.stat().st_size > 0 or recorder.poll() is not None, _START_S)
        for number, scene in enumerate(scenes):
            print(f"\n== {scene.name}: {scene.title}, played at {scene.pace:g} times its speed", flush=True)
            bag, script = scene.prepare(out / "scenes", number=number)
            camera = [str(bag), "--topic", TOPIC, "--keep-stamps", "--wait", "60", "--rate", str(scene.pace)]
            with (
                process("camera.py", *camera, log=out / "camera.log"),
                process(scene.agent, str(script), "--answers", str(answers)) as agent,
            ):
                until(lambda: agent.poll() is not None or node.poll() is not None, _AGENT_S)
                failed |= agent.poll() != 0
    print("\nwritten:")
    for path, what in (
        (answers, "every answer, a JSON object a line"),
        (video, "what the camera saw, with masks, ids, states and answers"),
        (picture, "its last picture"),
        (node_log, "the node's log"),
    ):
        print(f"  {path}   {what}" if path.exists() else f"  {path}   MISSING")
        failed |= not path.exists()
    if failed:
        print(f"\nthe demo FAILED; the end of {node_log}:", file=sys.stderr)
        print("\n".join(node_log.read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
    return int(failed)


def marks(answers: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The answers that were marked, as a table, and last how many of them are right.

    Args:
        answers: as they were written down; those of an exam say by ``step`` which question of its plan they
            are to.

    Yields:
        Lines of text; none if nothing was marked.
    """
    marked = [answer for answer in answers if "right" in answer]
    if not marked:
        return
    start_ns = min((stamp for answer in marked for stamp in answer["frame_stamps_ns"]), default=0)
    yield "\nThe answers, held against the truth in the images that each looked at:"
    for answer in marked:
        verdict = {True: "right", False: "WRONG", None: "-"}[answer["right"]]
        question = answer["question"]
        for name in answer["objects"]:
            question = question.replace("<region>", name, 1)
        looked_s = [f"{(stamp - start_ns) / 1e9:.1f}" for stamp in answer["frame_stamps_ns"]]
        when = "-".join(looked_s[:: max(len(looked_s) - 1, 1)])
        said = " ".join(answer["text"].split()) or answer["status"]
        yield f"  {verdict:6} {when:>7} s  {question}  {said[:_SHOWN]}{'...' * (len(said) > _SHOWN)}"
        if not answer["right"]:
            yield f"{'':19}{answer['reason'] or 'the truth'}: {answer['truth']}"
    yield f"\n{tally(marked)}"


def tally(marked: Sequence[dict[str, Any]]) -> str:
    """How many answers are right, and how many questions of the plan have none that counts, if any."""
    counted = [answer for answer in marked if answer["right"] is not None]
    asked = {answer["step"] for answer in marked}
    unclear = len(asked - {answer["step"] for answer in counted})
    counts = [f"{sum(answer['right'] for answer in counted)} of {len(counted)} right"]
    counts += [f"{unclear} without a clear truth"] * (unclear > 0)
    counts += [f"{len(PLAN) - len(asked)} not asked"] * (len(PLAN) > len(asked))
    return "; ".join(counts)


def caution(models: Sequence[str], scenes: Sequence[DemoScene]) -> str:
    """What to say first of models that know nothing of what is shown; empty if that is not known of them."""
    if TINY_RANDOM in models:
        return (
            "These models are small and UNTRAINED: the path is real, but masks and answers mean nothing.\n"
            "Give real ones with --model and --tracker-model."
        )
    shapes_only = [name for name in models if Path(name).name in (SHIPPED_MODEL, SHIPPED_TRACKER)]
    if shapes_only and any(isinstance(scene, PhotographScene) for scene in scenes):
        return (
            f"Trained on the shapes world ONLY: {', '.join(shapes_only)}. Masks and answers about\n"
            "photographs mean nothing, however sure they sound. Give others with --model and --tracker-model."
        )
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    model, tracker = embedded_models()
    photographs = {scene.name: scene for scene in PHOTOGRAPHS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="where results are written")
    parser.add_argument(
        "--model", default=model, help="folder, hub id, or tiny-random (untrained); %(default)s"
    )
    parser.add_argument("--tracker-model", default=tracker, help="likewise; none: objects stay; %(default)s")
    parser.add_argument(
        "--scenes",
        nargs="+",
        choices=[ShapesScene.name, *photographs],
        default=list(photographs) if TINY_RANDOM in (model, tracker) else [ShapesScene.name],
        help="what to show (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which shapes video")
    parser.add_argument(
        "--pace", type=float, default=ShapesScene.pace, help="of the shapes video; %(default)s"
    )
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    own_domain()
    by_name: dict[str, DemoScene] = {**photographs, ShapesScene.name: ShapesScene(args.seed, args.pace)}
    scenes = [by_name[name] for name in args.scenes]
    if said := caution((args.model, args.tracker_model), scenes):
        print(said)
    started = time.monotonic()
    code = run(args.out, args.model, args.tracker_model, scenes)
    print(f"\n{time.monotonic() - started:.0f} s")
    answers = (args.out / ANSWERS).read_text(encoding="utf-8") if (args.out / ANSWERS).exists() else ""
    for line in marks([json.loads(line) for line in answers.splitlines()]):
        print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
