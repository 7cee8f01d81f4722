# SPDX-License-Identifier: Apache-2.0
"""Scores on the shapes world: answers, tracked masks, and both together."""

from pixelrefer_ros.training.scoring.answers import AnswerScores, RowScore, score_answers, score_shuffled
from pixelrefer_ros.training.scoring.masks import boundary_f, jaccard
from pixelrefer_ros.training.scoring.system import SystemScores, score_system
from pixelrefer_ros.training.scoring.tracks import TrackScores, score_tracker

__all__ = [
    "AnswerScores",
    "RowScore",
    "SystemScores",
    "TrackScores",
    "boundary_f",
    "jaccard",
    "score_answers",
    "score_shuffled",
    "score_system",
    "score_tracker",
]
