# SPDX-License-Identifier: Apache-2.0
"""A question as topic, service and action receive it: handed in, or refused with its answer."""

from __future__ import annotations

from collections.abc import Callable

import pixelrefer_ros.msg as msg
from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.ros import conversions
from pixelrefer_ros.ros.switch import SwitchedPerception
from pixelrefer_ros.types import Answer, Question


def ask_or_refuse(
    work: SwitchedPerception,
    message: msg.Question,
    *,
    on_answer: Callable[[Answer], None] | None = None,
    on_text: Callable[[str, int], None] | None = None,
) -> Callable[[], None]:
    """Ask what a message asks; one that cannot be read gets its answer at once.

    Returns:
        What cancels the question.
    """
    try:
        question = conversions.to_question(message)
    except PixelReferError as error:
        asked = Question(message.text, tuple(int(i) for i in message.object_ids), message.id)
        work.refuse(asked, error, on_answer)
        return lambda: None
    return work.ask(question, on_text=on_text, on_answer=on_answer)
