# SPDX-License-Identifier: Apache-2.0
"""What is never trained on in a colour and surface is not learned to be absent there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from micro_language import MICRO

from pixelrefer_ros.training.checkpoints import Sizes, new_checkpoint, tokenizer_of
from pixelrefer_ros.training.rivals import WordRivals, among_rivals
from pixelrefer_ros.training.world import COLORS, COMBINATIONS, SEEN, SHAPES, SURFACES, UNSEEN

_COLORS = list(COLORS)


def columns(combinations) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = [(SHAPES.index(c.shape), _COLORS.index(c.color), SURFACES.index(c.surface)) for c in combinations]
    shapes, colors, surfaces = torch.tensor(rows).unbind(dim=1)
    return shapes, colors, surfaces


def test_only_shapes_that_are_trained_on_in_a_colour_and_surface_learn_from_it():
    shapes, colors, surfaces = columns(sorted(SEEN, key=str))
    logits = torch.randn(len(shapes), len(SHAPES), requires_grad=True)
    F.cross_entropy(among_rivals(logits, colors, surfaces), shapes, reduction="sum").backward()
    learned = {
        (SHAPES[shape], _COLORS[color], SURFACES[surface])
        for row, color, surface in zip(logits.grad, colors.tolist(), surfaces.tolist(), strict=True)
        for shape in row.nonzero().flatten().tolist()
    }
    assert learned == {(c.shape, c.color, c.surface) for c in SEEN}
    assert len(learned) == len(COMBINATIONS) - len(UNSEEN)


def test_among_rivals_the_likelier_shape_stays_the_likelier():
    shapes, colors, surfaces = columns(sorted(SEEN, key=str))
    logits = torch.zeros(len(shapes), len(SHAPES)).scatter(1, shapes[:, None], 2.0)
    lowered = among_rivals(logits, colors, surfaces)
    assert torch.equal(lowered.argmax(dim=1), shapes)
    assert torch.equal(lowered.gather(1, shapes[:, None]), logits.gather(1, shapes[:, None]))


def test_a_shape_after_a_colour_and_a_surface_is_told_from_its_rivals_only(tmp_path):
    sizes = Sizes(vocabulary=1024)  # all words are single tokens
    new_checkpoint(tmp_path, sizes, seed=0)
    tokenizer = tokenizer_of(tmp_path)
    it, missing = min(SEEN), min(UNSEEN)
    shape, color, surface = it.shape, it.color, it.surface
    rivals = WordRivals(tokenizer)

    def ids(text: str) -> list[int]:
        return tokenizer.encode([(text, False)])

    names = [
        f" {color} {surface} {shape}",
        f" {missing.color} {missing.surface} {shape}",
        f" is {color} {shape}",
    ]
    before, last, wanted = torch.tensor([ids(name) for name in names]).unbind(dim=1)
    logits = torch.zeros(3, sizes.vocabulary)
    lowered = rivals(logits, wanted, last, before)
    assert lowered[0, wanted[0]] == 0, "what is trained on may be said"
    (absent,) = ids(f" {missing.shape}")
    assert lowered[1, absent] < -1000
    assert (lowered < 0).sum(dim=1).tolist() == [
        sum((it.color, it.surface) == pair for it in UNSEEN)
        for pair in ((color, surface), (missing.color, missing.surface))
    ] + [0], "and no other word is touched"


def test_a_shape_of_several_tokens_lowers_no_other_word(tmp_path):
    new_checkpoint(tmp_path, MICRO, seed=0)
    tokenizer = tokenizer_of(tmp_path)
    tokens = {word: tokenizer.encode([(f" {word}", False)]) for word in (*COLORS, *SURFACES, *SHAPES)}
    assert any(len(tokens[shape]) > 1 for shape in SHAPES), "its vocabulary is small"
    single = [it for it in sorted(SEEN) if all(len(tokens[word]) == 1 for word in it)]
    shape, color, surface = (
        torch.tensor([tokens[getattr(it, name)][0] for it in single])
        for name in ("shape", "color", "surface")
    )
    lowered = WordRivals(tokenizer)(torch.zeros(len(single), MICRO.vocabulary), shape, surface, color)
    touched = set((lowered < 0).nonzero()[:, 1].tolist())
    assert touched
    assert touched <= {tokens[word][0] for word in SHAPES if len(tokens[word]) == 1}
