# SPDX-License-Identifier: Apache-2.0
"""Teaches a new language model to read what a new object encoder finds in pictures.

Who is around an object is in the features of its frame (paper, Algorithm 1: global infusion), at its own
patches there, which its tokens first have to find among 576; see `infusion_start` for how that begins, and
how tokens begin near to signs. Beyond that, signs are no goal: from them the language model has learned to
compare, choose and say yes or no, and now it learns from answers, together with the projection, to read what
the vision encoder really says. Object tokens that were taught to be near to signs did it for the scenes they
were taught on, not for others.

Vision encoder, infusion and words stay as they are in this stage. So what is projected is kept with each
question, and a question costs no more than in `reading`.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training.asked import Asked
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.infusion_start import begin_infusion
from pixelrefer_ros.training.infusion_views import Shown, ShownBatches, fused, see
from pixelrefer_ros.training.language_loss import AnswerLoss, embedded_loss, place_tokens
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Loop
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.question_bank import QuestionBank
from pixelrefer_ros.training.reading import OF_READINGS, settle_words, share_right
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.rivals import WordRivals

STAGE = "infusion"
_WATCHED = 60  # validation scenes
_NEW_EVERY = 8  # steps
_FLAT = 0.1
_TOKENS = 5200  # of a step
_NOISE = 0.25  # a tenth of the deviation between views
_BEFORE_ALL = 1 << 32  # their numbers are none of the steps'


def projected_loss(
    network: PixelReferNetwork, batch: Asked, rivals: WordRivals | None = None, *, noisy: bool = False
) -> AnswerLoss:
    """Of the answers; gradients reach the projection.

    Args:
        network: to be taught.
        batch: with what the object encoder projects of each view.
        rivals: of the shapes world.
        noisy: add noise to that: a view is shown many times, and is not to be learned by heart.

    Raises:
        ValueError: it is of no pictures.
    """
    if batch.fused is None:
        raise ValueError("the questions are of no pictures: there is nothing to project")
    given = batch.fused.to(network.device).float()
    if noisy:  # of its own for each token, and shared by all tokens of a view
        given = given + _NOISE * (torch.randn_like(given) + torch.randn_like(given[:, :1]))
    tokens = network.object_encoder.feat_linear(given)[batch.views]
    return embedded_loss(network, place_tokens(network, batch.rows.ids, tokens), batch.rows, rivals)


def teach_infusion(network: PixelReferNetwork, folder: Path, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, or goes on with it where the folder holds its state.

    Args:
        network: on its device; its language model and its projection are taught.
        folder: of the checkpoint, for its tokenizer.
        out: folder of the log, the state, and the signs that the language model reads.
        settings: of the whole run.

    Returns:
        Whether it is finished; False when the minutes ended first. Where no language model has learned to
        read signs there is nothing to do.
    """
    readings = Readings.load(network, out)
    if readings is None:
        return True
    encoder, language = network.object_encoder, network.language
    readings.signs.settled().requires_grad_(False)
    settle_words(language)
    taught = nn.ModuleDict(
        {
            "projection": encoder.feat_linear,
            "layers": language.model,
            "sides": readings.sides,
            "comparisons": readings.comparisons,
        }
    )
    bank, rivals = QuestionBank(), WordRivals(tokenizer_of(folder))
    # The state holds what was learned before, too: a stopped run begins from it.
    learner = nn.ModuleDict(
        {
            "vision": network.vision,
            "object_encoder": encoder,
            "language": language,
            "sides": readings.sides,
            "comparisons": readings.comparisons,
            "bank": bank,
        }
    )
    groups = parameter_groups(
        {settings.infusion_rate: taught.values()},
        weight_decay=settings.weight_decay,
        hidden=[encoder.feat_linear, language.model.layers],
    )
    steps = settings.infusion_steps
    loop = Loop(STAGE, learner, groups, out, settings.pace(steps, flat=_FLAT))
    loop.resume()
    batches = ShownBatches(
        folder, network.config, seed=settings.seed, scenes=settings.infusion_scenes, every=_NEW_EVERY
    )

    def keep(shown: Shown) -> Asked:
        return _projected(network, shown, bf16=settings.bf16)

    before_all = range(0 if loop.finished else settings.infusion_first)
    first = [batches.draw(_BEFORE_ALL + number) for number in before_all]
    if not loop.step:
        seen = [see(network, shown, bf16=settings.bf16) for shown in first]
        begin_infusion(encoder, seen, readings.signs, seed=settings.seed)
    for shown in first:
        bank.add(keep(shown))
    first.clear()
    watched: list[Asked] = []
    if settings.validate_every:
        scenes = ShownBatches(folder, network.config, seed=settings.seed, scenes=_WATCHED, split="val")
        watched.append(keep(scenes.draw(0)))

    def losses(batch: Asked, *, noisy: bool) -> tuple[AnswerLoss, Tensor, float]:
        with mixed_precision(network.device, bf16=settings.bf16):
            result = projected_loss(network, batch, None if not noisy else rivals, noisy=noisy)
            return result, *readings.loss(result, batch.facts[batch.views], batch.times)

    def learn(shown: Shown | None) -> dict[str, Tensor | float]:
        if shown is not None:
            bank.add(keep(shown))
        batch = bank.draw(np.random.default_rng([settings.seed, 23, loop.step]), _TOKENS)
        result, off, named = losses(batch, noisy=True)
        bank.answered(batch.kinds, result.mistakes, result.lengths)
        right = result.right / result.answers
        return {"loss": result.loss + OF_READINGS * off, "right": right, "named": named, "off": off.detach()}

    @torch.inference_mode()
    def validate(_: int) -> dict[str, float]:
        [batch] = watched
        result, off, named = losses(batch, noisy=False)
        right = result.right / result.answers
        return {"loss": float(result.loss), "right": right, "named": named, "off": float(off)} | share_right(
            result, batch.kinds
        )

    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        loop.run(
            loader(batches, range(loop.step, steps), workers=settings.workers),
            learn,
            validate if watched else None,
        )
    loop.save()
    if loop.finished:
        readings.save(out)
    return loop.finished


def _projected(network: PixelReferNetwork, shown: Shown, *, bf16: bool) -> Asked:
    """Its questions, with what the object encoder projects of each view."""
    tokens = fused(network.object_encoder, see(network, shown, bf16=bf16))
    return replace(shown.asked, fused=tokens.cpu())
