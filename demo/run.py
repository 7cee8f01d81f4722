# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: camera, node, agent and recorder, each a process, joined by DDS alone."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scenes import PHOTOGRAPHS, TOPIC, PhotographScene

_HERE = Path(__file__).resolve().parent
_START_S, _AGENT_S, _STOP_S = 60.0, 120.0, 15.0


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


def run(out: Path, model: str, tracker: str, scenes: Sequence[PhotographScene]) -> int:
    """Play scenes to one node; the exit code says whether the agent got every answer."""
    answers, video, picture, node_log, recorder_log = (
        out / name for name in ("answers.jsonl", "overlay.mp4", "overlay.png", "node.log", "recorder.log")
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
            print(f"\n== {scene.name}: a photograph as a moving camera sees it", flush=True)
            bag, script = scene.prepare(out / "scenes", number=number)
            camera = [str(bag), "--topic", TOPIC, "--keep-stamps", "--wait", "60"]
            with (
                process("camera.py", *camera, log=out / "camera.log"),
                process("agent.py", str(script), "--answers", str(answers)) as agent,
            ):
                until(lambda: agent.poll() is not None or node.poll() is not None, _AGENT_S)
                failed |= agent.poll() != 0
    print("\nwritten:")
    for path, what in (
        (answers, "every answer, a JSON object a line"),
        (video, "what the camera saw, with masks, ids and states"),
        (picture, "its last picture"),
        (node_log, "the node's log"),
    ):
        print(f"  {path}   {what}" if path.exists() else f"  {path}   MISSING")
        failed |= not path.exists()
    if failed:
        print(f"\nthe demo FAILED; the end of {node_log}:", file=sys.stderr)
        print("\n".join(node_log.read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
    return int(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="where results are written")
    parser.add_argument("--model", default="tiny-random", help="folder, hub id, or tiny-random (untrained)")
    parser.add_argument("--tracker-model", default="tiny-random", help="likewise; none: objects stay put")
    names = [scene.name for scene in PHOTOGRAPHS]
    parser.add_argument("--scenes", nargs="+", choices=names, default=names, help="what to show")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    own_domain()
    if "tiny-random" in (args.model, args.tracker_model):
        print(
            "These models are small and UNTRAINED: the path is real, but masks and answers mean nothing.\n"
            "Give real ones with --model and --tracker-model."
        )
    started = time.monotonic()
    scenes = [scene for scene in PHOTOGRAPHS if scene.name in args.scenes]
    code = run(args.out, args.model, args.tracker_model, scenes)
    print(f"\n{time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
