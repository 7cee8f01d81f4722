# SPDX-License-Identifier: Apache-2.0
"""The bounds and habits of perception."""

from __future__ import annotations

from dataclasses import dataclass

from pixelrefer_ros.errors import ParameterError

MAX_ANSWER_TOKENS = 1024
"""No question may ask for a longer answer, in tokens."""
MAX_WAITING_REGIONS = 64
"""Regions that may wait for the tracker; more than a person or an agent can send between two frames."""


@dataclass(frozen=True, slots=True)
class PerceptionSettings:
    """What perception may hold, and what it does unasked.

    Attributes:
        max_objects: objects tracked at once.
        max_questions: questions that may wait behind those being answered.
        max_batch: questions answered at once; 1 answers one after the other.
        max_question_chars: longest question text, characters.
        max_tokens: longest answer when the question does not say, tokens.
        history_frames: frames remembered, the newest included.
        history_interval_s: remembered frames are at least so far apart (the newest is always there), s.
        track_rate_hz: at most so many frames a second are tracked; 0 tracks every frame that can be.
        describe_question: asked by itself about each new object; empty switches it off.
        describe_period_s: ask it again when the description is so old; 0 never asks again, s.
        temperature: 0 decodes greedily; above, tokens are sampled.
        top_p: sampling keeps the likeliest tokens that together have this probability.
        seed: of the sampling.
    """

    max_objects: int = 16
    max_questions: int = 8
    max_batch: int = 4
    max_question_chars: int = 2000
    max_tokens: int = 64
    history_frames: int = 32
    history_interval_s: float = 0.1
    track_rate_hz: float = 0.0
    describe_question: str = ""
    describe_period_s: float = 0.0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ParameterError: a value is out of its bounds.
        """
        lowest = {
            "max_objects": 1,
            "max_questions": 1,
            "max_batch": 1,
            "max_question_chars": 1,
            "max_tokens": 1,
            "history_frames": 1,
            "history_interval_s": 0,
            "track_rate_hz": 0,
            "describe_period_s": 0,
            "temperature": 0,
        }
        for name, least in lowest.items():
            if not getattr(self, name) >= least:
                raise ParameterError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.max_tokens > MAX_ANSWER_TOKENS:
            raise ParameterError(f"max_tokens is {self.max_tokens}; it must be at most {MAX_ANSWER_TOKENS}")
        if not 0 < self.top_p <= 1:
            raise ParameterError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
