# SPDX-License-Identifier: Apache-2.0
"""Questions whose honest answer is "I cannot tell"."""

from __future__ import annotations

from pixelrefer_ros.training.world.questions.draft import Asking, Draft

BARELY_SEEN = (0.05, 0.2)
"""Of an object seen by so little, shape and size cannot be told."""
BARELY_SEEN_PX = 50

UNKNOWN = "I cannot tell."
_UNKNOWABLE = (
    "What is the name of <region>?",
    "Does <region> have a name?",
    "Who made <region>?",
    "Who owns <region>?",
    "How heavy is <region>?",
    "How old is <region>?",
    "What does <region> cost?",
    "What is on the back of <region>?",
    "What does <region> smell like?",
    "What sound does <region> make?",
    "How warm is <region>?",
    "What is inside <region>?",
)
_MOTION = (
    "Is <region> moving?",
    "Which way does <region> move?",
    "In which direction is <region> moving?",
    "Is <region> growing?",
    "Is <region> rotating?",
    "When was <region> hidden?",
    "Was <region> hidden at any time?",
)
_HIDDEN_ATTRIBUTE = (
    "What shape is <region>?",
    "Which shape does <region> have?",
    "How large is <region>?",
    "What is the size of <region>? Answer in one word.",
)


def unknowable(asking: Asking) -> Draft | None:
    """What no picture shows: a name, a weight, a price, a back."""
    return _honest(asking, asking.choose(_UNKNOWABLE), UNKNOWN, ("color", "surface", "shape"))


def one_picture(asking: Asking) -> Draft | None:
    """Motion and hiding, asked of a single frame."""
    words = "I cannot tell from one picture."
    return _honest(asking, asking.choose(_MOTION), words, ("color", "surface", "shape"))


def barely_seen(asking: Asking) -> Draft | None:
    """The shape or size of an object of which all but a little is covered."""
    share = asking.sight.shares[asking.newest, asking.number]
    if not BARELY_SEEN[0] <= share <= BARELY_SEEN[1]:
        return None
    if asking.sight.pixels[asking.newest, asking.number] < BARELY_SEEN_PX:
        return None
    return _honest(asking, asking.choose(_HIDDEN_ATTRIBUTE), UNKNOWN, ("color",))


def _honest(asking: Asking, question: str, words: str, seen: tuple[str, ...]) -> Draft:
    """That it cannot be told; what can be seen of it may be said beside that."""
    it = asking.sight.scene.objects[asking.number].combination
    known = [(slot, str(getattr(it, slot))) for slot in seen]
    return asking.draft((question, words), [("answer", "unknown")], known=known)
