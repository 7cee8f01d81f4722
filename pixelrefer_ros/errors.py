# SPDX-License-Identifier: Apache-2.0
"""The errors of this domain: each message names the thing, its value, and what to do.

Every class carries the `AnswerStatus` that the interface reports for it, so that no caller has to
translate.
"""

from __future__ import annotations

from pixelrefer_ros.types import AnswerStatus


class PixelReferError(Exception):
    """The base of every error a user of this package is expected to handle."""

    status = AnswerStatus.INTERNAL_ERROR


class ImageError(PixelReferError):
    """An image that cannot be read: unknown encoding, too little data, no pixels, too large."""


class CheckpointError(PixelReferError):
    """A model folder that cannot be loaded: a file, key, shape or field is missing or wrong."""


class BackendError(PixelReferError):
    """A backend (ONNX Runtime, TensorRT) that cannot open or run a graph."""


class ParameterError(PixelReferError):
    """A setting outside its type, bounds or choices."""


class InputFileError(PixelReferError):
    """A bag, regions or questions file that cannot be read."""


class NoSuchObject(PixelReferError):
    """An object id that is not being tracked."""

    status = AnswerStatus.NO_SUCH_OBJECT


class ObjectLost(PixelReferError):
    """An object that no remembered frame shows."""

    status = AnswerStatus.OBJECT_LOST


class EmptyRegion(PixelReferError):
    """A region that covers no pixel of the image, or that is not one box, points or mask."""

    status = AnswerStatus.EMPTY_REGION


class BadQuestion(PixelReferError):
    """A question that cannot be asked: too long, no object, wrong number of ``<region>``."""

    status = AnswerStatus.BAD_QUESTION


class NoFrame(PixelReferError):
    """No frame to look at: none has arrived, or the one named is no longer remembered."""

    status = AnswerStatus.NO_FRAME


class Overloaded(PixelReferError):
    """A bound was reached: objects, or questions waiting."""

    status = AnswerStatus.OVERLOADED
