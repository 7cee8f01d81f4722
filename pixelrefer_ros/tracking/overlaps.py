# SPDX-License-Identifier: Apache-2.0
"""Which objects may be in one place: those that overlapped when one of the two was pointed at.

Masks tell that only where both are of one frame. A region may be drawn on an older frame than the others
have a result for; then the first frame in which both are decoded tells it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pixelrefer_ros.tracking.apart import overlap
from pixelrefer_ros.tracking.followed import Followed
from pixelrefer_ros.tracking.frame_order import FrameKey

_OVERLAPS = 0.2  # of the smaller of two masks


def start_relations(item: Followed, others: Sequence[Followed]) -> None:
    """A new object was pointed at: note which others it may overlap."""
    for other in others:
        share = overlap(item.logits, other.logits)
        if item.key == other.key or share is None:
            _decide(item, other, share)
        else:
            item.undecided.add(other.object_id)
            other.undecided.add(item.object_id)


def renew_relations(item: Followed, before: Followed, others: Sequence[Followed]) -> None:
    """A known object was pointed at again: they are noted anew where its mask and another's can be compared.

    Args:
        item: as it starts anew.
        before: as it was.
        others: that are followed.
    """
    item.overlaps, item.undecided = before.overlaps, before.undecided
    for other in others:
        share = overlap(item.logits, other.logits)
        if item.key == other.key and share is not None:
            _decide(item, other, share)


def decide_relations(
    items: Sequence[Followed], masks: Tensor, others: Sequence[Followed], key: FrameKey
) -> None:
    """Objects were decoded in a frame: decide about the pairs whose masks were never of one frame before.

    Args:
        items: the N objects.
        masks: (N, 4h, 4w) logits, before they were kept apart.
        others: all that are followed; those with a result in the frame already count with that.
        key: of the frame.
    """
    if not any(item.undecided for item in items):
        return
    found = {other.object_id: other.logits for other in others if other.key == key}
    found |= {item.object_id: mask for item, mask in zip(items, masks, strict=True)}
    for item in items:
        for other in others:
            if other.object_id in item.undecided and other.object_id in found:
                _decide(item, other, overlap(found[item.object_id], found[other.object_id]))


def forget_relations(object_id: int, others: Sequence[Followed]) -> None:
    """An object is no longer followed."""
    for other in others:
        other.overlaps.discard(object_id)
        other.undecided.discard(object_id)


def _decide(item: Followed, other: Followed, share: float | None) -> None:
    for one, its in ((item, other), (other, item)):
        one.undecided.discard(its.object_id)
        if share is not None and share > _OVERLAPS:
            one.overlaps.add(its.object_id)
        else:
            one.overlaps.discard(its.object_id)
