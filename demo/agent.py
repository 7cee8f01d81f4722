# SPDX-License-Identifier: Apache-2.0
"""An agent in a process of its own: it points at things in the camera's image and asks about them.

It knows nothing of the node but its interface. Where things are it reads from a file, as a robot's agent
would learn it from a detector or a person: boxes by image stamp. Each region names the image it was drawn on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from pixelrefer_ros.errors import NoFrame
from pixelrefer_ros.ros import PixelReferClient
from pixelrefer_ros.types import Answer, Box, Region

PATIENCE_S = 60.0
_PAUSE_S = 0.5


def newest_stamp(client: PixelReferClient) -> int:
    """Stamp of the newest image that the node has tracked, ns; waits for the first."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        stamp = client.list_objects().header.stamp
        if stamp.sec or stamp.nanosec:
            return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
        time.sleep(0.05)
    raise TimeoutError(f"the node has tracked no image within {PATIENCE_S:g} s: is the camera on?")


def point_at(client: PixelReferClient, name: str, boxes: dict[str, list[int]]) -> int:
    """Start an object with its box in the newest image whose box is known.

    Args:
        client: the node.
        name: what the object is called here.
        boxes: stamp (ns) of an image -> x, y, width, height.

    Returns:
        The object's id.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        stamp = newest_stamp(client)
        if str(stamp) in boxes:
            try:
                return client.add_region(Region(box=Box(*boxes[str(stamp)]), label=name, stamp_ns=stamp))
            except NoFrame:
                continue  # the node has gone on meanwhile; point at a newer image
        time.sleep(0.02)
    raise TimeoutError(f"{name} did not come into view within {PATIENCE_S:g} s")


def ask(client: PixelReferClient, text: str, objects: Mapping[str, int], **question: Any) -> Answer:
    """Ask one question, printing the answer as it streams.

    Args:
        client: the node.
        text: with one ``<region>`` per object.
        objects: name -> id, in the order of the ``<region>``s.
        question: further fields of `Question`: frames, history_s, max_tokens.
    """
    about = ", ".join(f"{name} (object {number})" for name, number in objects.items())
    print(f"\nagent> {text}   [{about}]\nrobot> ", end="", flush=True)
    printed = ""

    def stream(said: str, _tokens: int) -> None:
        nonlocal printed
        print(said[len(printed) :].replace("\n", " "), end="", flush=True)
        printed = said

    answer = client.ask(text, list(objects.values()), on_text=stream, **question)
    # The last pieces may arrive with the answer itself, which is stripped of outer spaces.
    rest = answer.text[len(printed.lstrip()) :].replace("\n", " ")
    print(
        f"{rest}\n       {answer.status.name} · object {', '.join(map(str, answer.question.object_ids))}"
        f" · image {answer.stamp_ns / 1e9:.3f} s · first token {answer.time_to_first_token_s * 1e3:.0f} ms"
        f" · {answer.total_time_s * 1e3:.0f} ms · confidence {answer.confidence:.2f}"
        + (f"\n       {answer.error}" if answer.error else ""),
        flush=True,
    )
    return answer


def keep(answer: Answer, names: Iterable[str], scene: str, out: TextIO, **more: Any) -> None:
    """Write an answer down: one JSON object on a line.

    Args:
        answer: as it came.
        names: what the objects are called here.
        scene: which one was shown.
        out: the file.
        more: what else is known of it.
    """
    record = {
        "scene": scene,
        "object_ids": list(answer.question.object_ids),
        "objects": list(names),
        "question": answer.question.text,
        "text": answer.text,
        "status": answer.status.name,
        "error": answer.error,
        "confidence": round(answer.confidence, 4),
        "stamp_ns": answer.stamp_ns,
        "frame_stamps_ns": list(answer.frame_stamps_ns),
        "tokens": answer.tokens,
        "time_to_first_token_s": round(answer.time_to_first_token_s, 4),
        "total_time_s": round(answer.total_time_s, 4),
        "model": answer.model,
    }
    print(json.dumps(record | more, ensure_ascii=False), file=out, flush=True)


def main() -> int:
    """Point, ask, report; the exit code says whether every question was answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("script", type=Path, help="JSON: boxes by object and stamp, and questions")
    parser.add_argument("--answers", type=Path, required=True, help="the .jsonl to add to")
    parser.add_argument("--node", default="/pixelrefer")
    args = parser.parse_args()
    script = json.loads(args.script.read_text(encoding="utf-8"))
    failed = 0
    with PixelReferClient(args.node) as client, args.answers.open("a", encoding="utf-8") as out:
        client.wait_ready(PATIENCE_S)
        client.clear()  # of what an earlier agent pointed at
        ids: dict[str, int] = {}
        for question in script["questions"]:
            for name in question["objects"]:
                if name not in ids:
                    ids[name] = point_at(client, name, script["boxes"][name])
                    print(f"\nagent  points at the {name}: object {ids[name]}", flush=True)
            more = {key: question[key] for key in ("frames", "history_s") if key in question}
            answer = ask(client, question["text"], {name: ids[name] for name in question["objects"]}, **more)
            keep(answer, question["objects"], script["scene"], out)
            failed += answer.status.name not in ("OK", "TRUNCATED")
            time.sleep(_PAUSE_S)
    print(f"\n{len(script['questions'])} questions, {failed} not answered", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
