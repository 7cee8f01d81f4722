# SPDX-License-Identifier: Apache-2.0
"""Questions for yes or no: what is decided is learned where it is decided, too."""

from __future__ import annotations

import pytest
import torch

from pixelrefer_ros.training.checkpoints import Sizes, new_checkpoint, new_network, tokenizer_of
from pixelrefer_ros.training.language_loss import embedded_loss
from pixelrefer_ros.training.text_rows import IGNORED, TextRow, TextRows, text_row
from pixelrefer_ros.training.world import SceneSettings, scene_drafts, scene_seeds

KINDS = ("is_attribute", "is_place", "is_motion")
SIZES = Sizes(vision_width=32, vision_layers=1, language_width=64, language_layers=2, language_heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    new_checkpoint(folder, SIZES, seed=0)
    return folder


def rows_of(folder, kind: str) -> list[tuple[TextRow, str, tuple[str, str]]]:
    tokenizer, config = tokenizer_of(folder), new_network(folder, seed=0).config
    settings = SceneSettings(frames=12, size=(320, 240))
    drafts = [
        draft
        for seed in scene_seeds("val", 0, 4)
        for _, _, draft in scene_drafts(seed, 4, settings=settings, kinds=(kind,))
    ]
    assert drafts
    assert all(draft.claim is not None for draft in drafts)
    return [
        (
            text_row(draft.question, draft.answer, [[None]], tokenizer, config, claim=draft.claim),
            draft.answer,
            draft.claim,
        )
        for draft in drafts
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_right_after_the_claim_its_truth_is_a_label(folder, kind):
    tokenizer = tokenizer_of(folder)
    for row, answer, (words, yes) in rows_of(folder, kind):
        asides = [
            place
            for place, (token, label) in enumerate(zip(row.ids, row.labels, strict=True))
            if label not in (IGNORED, token)
        ]
        (place,) = asides
        assert tokenizer.decode(row.ids[:place]).endswith(f" {words}")
        assert tokenizer.decode([row.labels[place]]) == f" {yes}"
        assert answer.endswith(f": {yes}.")


def test_what_could_be_said_is_learned_and_is_no_part_of_the_answer(folder):
    network = new_network(folder, seed=0)
    (row, _, _), *_ = rows_of(folder, "is_attribute")
    plain = row._replace(
        labels=[
            IGNORED if token != label else label for token, label in zip(row.ids, row.labels, strict=True)
        ]
    )
    asked, without = TextRows.padded([row]), TextRows.padded([plain])
    embeddings = network.language.model.embed_tokens(asked.ids[0])  # of one row: packed as it is
    learned, other = (embedded_loss(network, embeddings, text) for text in (asked, without))
    assert torch.equal(learned.lengths, other.lengths)
    assert torch.equal(learned.mistakes, other.mistakes)
    assert not torch.equal(learned.loss, other.loss)
