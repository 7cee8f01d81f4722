# SPDX-License-Identifier: Apache-2.0
"""The lines of ``answers.jsonl``: one JSON object per answer, or per region that was refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.offline.files import RegionEntry
from pixelrefer_ros.types import Answer, Scene, TrackedObject


def answer_record(
    answer: Answer, *, frame: int | None, objects: Mapping[str, int], scene: Scene | None, timing: bool
) -> dict[str, Any]:
    """An answer with the objects it is about.

    Args:
        answer: what was answered.
        frame: index of the frame it was asked at; None before the first.
        objects: the names asked about, in order, with the objects' ids (0: it has none).
        scene: that frame's objects.
        timing: also say how long it took, under ``timing``; all else is the same from run to run.

    Returns:
        ``kind`` "answer"; the fields of the message ``Answer`` by their names, stamps as whole nanoseconds;
        the question's ``frames``, ``history_s`` and ``max_tokens``; and ``objects``: name, id, label, state,
        score, box ([x, y, width, height] or null) and area_px of each.
    """
    question = answer.question
    seen = {one.track.object_id: one for one in scene.objects} if scene is not None else {}
    record: dict[str, Any] = {
        "kind": "answer",
        "frame": frame,
        "stamp_ns": answer.stamp_ns,
        "frame_id": answer.frame_id,
        "question_id": question.id,
        "object_ids": list(question.object_ids),
        "question": question.text,
        "frames": question.frames,
        "history_s": question.history_s,
        "max_tokens": question.max_tokens,
        "status": answer.status.name,
        "text": answer.text,
        "confidence": float(answer.confidence),
        "frame_stamps_ns": list(answer.frame_stamps_ns),
        "tokens": answer.tokens,
        "model": answer.model,
        "error": answer.error,
        "objects": [
            {"name": name, "id": number, **_place(seen.get(number))} for name, number in objects.items()
        ],
    }
    if timing:
        record["timing"] = {
            "time_to_first_token_s": float(answer.time_to_first_token_s),
            "total_time_s": float(answer.total_time_s),
        }
    return record


def region_record(
    entry: RegionEntry, error: PixelReferError, *, frame: int | None, stamp_ns: int
) -> dict[str, Any]:
    """A region that was refused.

    Args:
        entry: of the regions file.
        error: why.
        frame: index of the frame it was due at; None if there was none.
        stamp_ns: that frame's stamp, 0 if there was none.

    Returns:
        ``kind`` "region", with its number and name in the file, the status and the error.
    """
    return {
        "kind": "region",
        "frame": frame,
        "stamp_ns": stamp_ns,
        "region": entry.number,
        "name": entry.name,
        "status": error.status.name,
        "error": str(error),
    }


def line(record: Mapping[str, Any]) -> str:
    """A record as one line of text, with its end."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _place(seen: TrackedObject | None) -> dict[str, Any]:
    """Where an object is in the frame; null where it is not known there."""
    if seen is None:
        return {"label": None, "state": None, "score": None, "box": None, "area_px": None}
    track = seen.track
    box = (
        None
        if track.box is None
        else [int(v) for v in (track.box.x, track.box.y, track.box.width, track.box.height)]
    )
    return {
        "label": seen.label,
        "state": track.state.name,
        "score": float(track.score),
        "box": box,
        "area_px": int(track.area_px),
    }
