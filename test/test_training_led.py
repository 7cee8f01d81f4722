# SPDX-License-Identifier: Apache-2.0
"""Attention that is led: from an object's patches to whoever is on its sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelrefer_ros.training.checkpoints import Sizes, new_checkpoint, new_network
from pixelrefer_ros.training.frame_losses import FrameHeads, frame_losses
from pixelrefer_ros.training.led_attention import LED_SIDES, UNKNOWN, LedAttention
from pixelrefer_ros.training.object_facts import COLOR, EMPTY, OWN, SHAPE, SIDES, UNCLEAR, WHO
from pixelrefer_ros.training.whole_frames import WholeFrames, batch_of
from pixelrefer_ros.training.world import COLORS, SHAPES

SIZES = Sizes(vision_width=32, vision_layers=3, vision_heads=4, language_width=64, language_layers=1)


@settings(max_examples=12, deadline=None)
@given(number=st.integers(0, 10_000), across=st.booleans(), down=st.booleans())
def test_it_is_led_to_the_one_that_is_named_there(number, across, down):
    frame = WholeFrames(seed=3)[number].mirrored(across=across, down=down)
    named = frame.facts.named
    for place in range(len(frame.own)):
        for column, side in enumerate(LED_SIDES):
            words = named[place, OWN + 2 * SIDES.index(side) :][:2].tolist()
            other = int(frame.beside[place, column])
            if other == UNKNOWN:  # unclear, or one that cannot be told itself
                assert words[0] != EMPTY
            elif other == place:
                assert words[0] == EMPTY
            else:
                its = (list(COLORS)[named[other, COLOR]], SHAPES[named[other, SHAPE]])
                assert [WHO[word - 3] for word in words] == list(its)


def test_what_is_unclear_leads_nowhere():
    frame = WholeFrames(seed=3)[0]
    for place, _ in enumerate(frame.own):
        for column, side in enumerate(LED_SIDES):
            if frame.facts.named[place, OWN + 2 * SIDES.index(side)] == UNCLEAR:
                assert frame.beside[place, column] == UNKNOWN


def test_attention_that_is_where_it_should_be_costs_nothing():
    own = [torch.tensor([True, False, False, False]), torch.tensor([False, False, True, True])]
    beside = torch.full((2, len(LED_SIDES)), UNKNOWN)
    beside[0, 1] = 1  # the second is to the right of the first
    queries, keys = torch.zeros(2, 4, 2, 8)
    for goal, least, most in ((1, 0.99, 1.0), (-1, 0.0, 0.01)):
        led = LedAttention(2, [0, 0], own, beside)
        queries[0, 1, 0] = 50.0
        keys[2:, 1, 0] = goal * 1.0
        led([0], 0, torch.stack([queries, keys, torch.zeros_like(keys)], dim=1))
        assert least <= led.share() <= most
        assert (float(led.loss()) < 0.01) == (goal == 1)


def test_the_last_layers_only_are_led_and_a_batch_without_neighbours_costs_nothing():
    led = LedAttention(6, [0], [torch.ones(4).bool()], torch.full((1, len(LED_SIDES)), UNKNOWN))
    mixed = torch.randn(4, 3, 4, 8)
    for layer in range(6):
        led([0], layer, mixed)
    assert float(led.loss()) == 0.0
    led = LedAttention(6, [0], [torch.ones(4).bool()], torch.zeros(1, len(LED_SIDES)).long())
    for layer in range(4):
        led([0], layer, mixed)
    assert float(led.loss()) == 0.0
    led([0], 4, mixed)
    led([0], 5, mixed)
    assert led.share() == pytest.approx(1.0)  # it is alone, and looks at itself, which is everything


def test_a_new_encoder_soon_looks_where_it_is_led(tmp_path):
    new_checkpoint(tmp_path, SIZES, seed=0)
    network = new_network(tmp_path, seed=0)
    torch.manual_seed(0)
    heads = FrameHeads(SIZES.vision_width)
    frames = WholeFrames(seed=3)
    batch = batch_of([frames[number] for number in range(2)], None, np.random.default_rng(0))
    optimizer = torch.optim.AdamW([*network.vision.parameters(), *heads.parameters()], lr=3e-3)
    shares = []
    for _ in range(25):
        result = frame_losses(network.vision, heads, batch, led_weight=5.0)
        shares.append(float(result["led"]))
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
    # Two objects of 24 x 24 patches: by chance it is there for some hundredths.
    assert shares[0] < 0.15
    assert shares[-1] > shares[0] + 0.2
