# SPDX-License-Identifier: Apache-2.0
"""Teaches a new language model to read what a new object encoder finds in pictures.

Who is around an object is in the features of its frame (paper, Algorithm 1: global infusion), at its own
patches there, which its tokens first have to find among 576; see `infusion_start` for how that begins, and
how tokens begin near to signs. Beyond that, signs are no goal: from them the language model has learned to
compare, choose and say yes or no, and now it learns from answers, together with the projection, to read what
the vision encoder really says. Object tokens that were taught to be near to signs did it for the scenes they
were taught on, not for others.

Vision encoder, infusion and words stay as they are in this stage. So scenes are seen once, what is projected
is kept with each question, and a question costs no more than in `reading`. Beside them it is asked about
objects of which no picture was drawn, see `imagined`: some thousand scenes are soon known by heart.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pixelrefer_ros.model import ObjectEncoder, PixelReferNetwork
from pixelrefer_ros.training import processes
from pixelrefer_ros.training.asked import Asked
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.imagined import Imagination
from pixelrefer_ros.training.infusion_start import begin_infusion
from pixelrefer_ros.training.infusion_views import Seen, Shown, ShownBatches, fused, see
from pixelrefer_ros.training.language_loss import AnswerLoss, embedded_loss, place_tokens
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Loop
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.question_bank import QuestionBank
from pixelrefer_ros.training.reading import (
    NEW_EVERY,
    OF_READINGS,
    NewQuestions,
    ReadingBatches,
    settle_words,
    share_right,
)
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.rivals import WordRivals
from pixelrefer_ros.training.seen_once import SeenOnce

STAGE = "infusion"
_SEEN = "infusion"  # folder beside the state
_WATCHED = 60  # validation scenes
_BEGUN_WITH = 120  # batches from which it learns where to look, and what is nearest to signs
_FLAT = 0.3
_TOKENS = (2000, 3200)  # of a step, about pictures and imagined
_NOISE = 0.15  # views deviate by 2.5
_PROJECTION = 0.05  # of the rate: moved faster, it turns what is quiet (an angle) away from the signs


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
    return embedded_loss(network, place_tokens(network, batch.rows, tokens), batch.rows, rivals)


def teach_infusion(network: PixelReferNetwork, folder: Path, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, or goes on with it where the folder holds its state.

    Args:
        network: on its device; its language model and its projection are taught.
        folder: of the checkpoint, for its tokenizer.
        out: folder of the log, the state, and the signs that the language model reads.
        settings: of the whole run.

    Returns:
        Whether it is finished; False when the minutes ended first, be it while scenes are seen. Where no
        language model has learned to read signs there is nothing to do.
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
    # Of all scenes that are seen: those that were not asked about would have been seen in vain.
    seen, imagined = QuestionBank(kept=None), QuestionBank()
    rivals = WordRivals(tokenizer_of(folder))
    # The state holds what was learned before, too: a stopped run begins from it.
    learner = nn.ModuleDict(
        {
            "vision": network.vision,
            "object_encoder": encoder,
            "language": language,
            "sides": readings.sides,
            "comparisons": readings.comparisons,
            "seen": seen,
            "imagined": imagined,
        }
    )
    groups = parameter_groups(
        {
            settings.infusion_rate: [taught["layers"], taught["sides"], taught["comparisons"]],
            _PROJECTION * settings.infusion_rate: [taught["projection"]],
        },
        weight_decay=settings.weight_decay,
        hidden=[encoder.feat_linear, language.model.layers],
    )
    steps = settings.infusion_steps
    loop = Loop(STAGE, learner, groups, out, settings.pace(steps, flat=_FLAT))
    begins = not loop.resume()
    batches = ShownBatches(folder, network.config, seed=settings.shown_by, scenes=settings.infusion_scenes)
    once = SeenOnce(network, batches, out / _SEEN, settings, deadline=loop.pace.deadline)
    asked: list[Asked] | None = [] if loop.finished else None
    if asked is None:
        with contextlib.suppress(KeyboardInterrupt):  # what was seen is kept: the run can go on
            asked = _asked(network, once, readings, settings, loop, begins=begins)
    if asked is None:
        return False
    for batch in asked:
        seen.add(batch)
    imagination = Imagination(asked) if asked else None
    watched: list[Asked] = []
    if settings.validate_every:
        scenes = ShownBatches(folder, network.config, seed=settings.seed, scenes=_WATCHED, split="val")
        watched.append(_projected(encoder, see(network, shown := scenes[0], bf16=settings.bf16), shown))

    def losses(batch: Asked, *, noisy: bool) -> tuple[AnswerLoss, Tensor, float]:
        with mixed_precision(network.device, bf16=settings.bf16):
            result = projected_loss(network, batch, rivals if noisy else None, noisy=noisy)
            return result, *readings.loss(result, batch.facts[batch.views], batch.times)

    def learn(new: Asked | None) -> dict[str, Tensor | float]:
        rng = np.random.default_rng([settings.shown_by, 23, loop.step])
        if new is None and not len(imagined):  # a run that goes on
            new = heard[loop.step - loop.step % NEW_EVERY]
        if new is not None:
            imagined.add(new)
        parts = [bank.draw(rng, tokens) for bank, tokens in zip((seen, imagined), _TOKENS, strict=True)]
        if imagination is not None:
            parts[1] = parts[1].turned(rng)
            parts[1] = replace(parts[1], fused=imagination(parts[1], rng))
        batch = Asked.joined(parts)
        result, off, named = losses(batch, noisy=True)
        of_seen = slice(len(parts[0].kinds))
        of_imagined = slice(len(parts[0].kinds), None)
        for bank, its in ((seen, of_seen), (imagined, of_imagined)):
            bank.answered(batch.kinds[its], result.mistakes[its], result.lengths[its])
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

    heard = NewQuestions(
        ReadingBatches(folder, network.config, seed=settings.shown_by, scenes=settings.reading_scenes)
    )
    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        loop.run(
            loader(heard, range(loop.step, steps), workers=settings.workers),
            learn,
            validate if watched else None,
        )
    loop.save()
    if loop.finished and processes.is_first():
        readings.save(out)
        once.remove()
    return loop.finished


def _asked(
    network: PixelReferNetwork,
    once: SeenOnce,
    readings: Readings,
    settings: LanguageSettings,
    loop: Loop,
    *,
    begins: bool,
) -> list[Asked] | None:
    """Questions about all scenes that are seen; an encoder that begins learns to look from the first.

    None where time was up first.
    """
    encoder = network.object_encoder
    mine = range(-(-settings.infusion_batches // settings.processes))
    if begins:
        first = once.seen(mine[:_BEGUN_WITH])
        if first is None:
            return None
        if processes.is_first():
            begin_infusion(
                encoder,
                [seen for seen, _ in first],
                readings.signs,
                seed=settings.seed,
                led_steps=settings.led_steps,
            )
        processes.share(encoder)
        del first  # some 3 MB each
        processes.wait()  # all have read the state that the first one writes anew
        loop.save()
    return once.projected(mine)


def _projected(encoder: ObjectEncoder, seen: Seen, shown: Shown) -> Asked:
    """Its questions, with what the object encoder projects of each view."""
    return replace(shown.asked, fused=fused(encoder, seen).cpu())
