# SPDX-License-Identifier: Apache-2.0
"""The ablations: each variant changes what it says it changes, and all begin alike."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro_language import SHORTEST
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from ablation_variants import FULL, TOKEN_NUMBERS, VARIANTS, of_tokens
from ablations import arguments, begin_like, command, settings_of, train

from pixelrefer_ros.training import language_loss
from pixelrefer_ros.training.checkpoints import Sizes, new_checkpoint, new_network, tokenizer_of
from pixelrefer_ros.training.data import make_batch
from pixelrefer_ros.training.language import LanguageSettings, train_language
from pixelrefer_ros.training.world import scene_examples

_BENCH = Path(__file__).resolve().parent.parent / "bench"
SIZES = Sizes(vision_width=32, vision_layers=1, language_width=32, language_layers=1, vocabulary=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("model")
    new_checkpoint(made, SIZES, seed=0)
    return made


@torch.no_grad()
def tokens_of(folder: Path, name: str, spoil=lambda batch: None) -> torch.Tensor:
    """The object tokens of some questions, made by a variant as training and scoring make them."""
    variant = VARIANTS[name]
    fields = json.loads((folder / "config.json").read_text())
    fields["mask_num"] = variant.sizes(SIZES).mask_num
    (folder / "config.json").write_text(json.dumps(fields))
    with variant.in_place():
        network = variant.change(new_network(folder, seed=0))
        batch = make_batch(list(scene_examples(5, 6, moments=1)), tokenizer_of(folder), network.config)
        spoil(batch)
        return language_loss.view_tokens(network, batch)


def black(pictures) -> None:
    for picture in pictures:
        picture[:] = 0


LOOKS_AT = {
    # who depends on: the object's own crop, its local context, the whole frame, its position
    FULL: (True, True, True, True),
    "mask-pooling": (False, True, True, True),  # the position is where it pools
    "no-position": (True, True, True, False),
    "no-local": (True, False, True, True),
    "no-global": (True, True, False, True),
    "no-infusion": (True, False, False, True),
    "no-expansion": (True, True, True, True),
    "tokens-1": (True, True, True, True),
}


@pytest.mark.parametrize("name", LOOKS_AT)
def test_a_variant_looks_at_what_its_name_leaves_it(folder, name):
    def moved(batch) -> None:
        for place, crop in enumerate(batch.crops):
            top, left, bottom, right = crop.box
            height, width = crop.frame_size
            object.__setattr__(
                crop, "box", (height - 1 - bottom, width - 1 - right, height - 1 - top, width - 1 - left)
            )
            batch.crops[place] = crop

    spoilers = (
        lambda batch: black(crop.image for crop in batch.crops),
        lambda batch: black(crop.context for crop in batch.crops),
        lambda batch: black(batch.frames),
        moved,
    )
    usual = tokens_of(folder, name)
    found = tuple(not torch.equal(tokens_of(folder, name, spoil), usual) for spoil in spoilers)
    assert found == LOOKS_AT[name]


@pytest.mark.parametrize("count", TOKEN_NUMBERS)
def test_a_variant_has_its_number_of_tokens(folder, count):
    assert tokens_of(folder, of_tokens(count)).shape[1] == count


def test_without_expansion_a_crop_ends_at_the_object(folder):
    def boxes(name: str) -> list[tuple[int, ...]]:
        found = []
        tokens_of(folder, name, lambda batch: found.extend(crop.box for crop in batch.crops))
        return found

    for own, expanded in zip(boxes("no-expansion"), boxes(FULL), strict=True):
        assert own[0] >= expanded[0] and own[1] >= expanded[1]
        assert own[2] <= expanded[2] and own[3] <= expanded[3] and own != expanded


def test_nothing_of_a_variant_stays_behind(folder):
    before = tokens_of(folder, FULL)
    for name in VARIANTS:
        tokens_of(folder, name)
    assert torch.equal(tokens_of(folder, FULL), before)


def test_what_variants_share_is_learned_once(tmp_path):
    learned = replace(
        SHORTEST,
        infusion_steps=0,  # which each variant learns by itself
        steps=(0, 0),
        sizes=SIZES,
    )
    assert train_language(tmp_path / "prepared", learned)
    learned = replace(learned, infusion_steps=1)
    assert train(tmp_path / "none", VARIANTS["no-infusion"], learned, tmp_path / "prepared")
    state = load_file(tmp_path / "prepared/training/state.safetensors")
    own = load_file(tmp_path / "none/model.safetensors")
    encoder = {name: value for name, value in state.items() if name.startswith("weights/vision.encoder.")}
    assert encoder
    for name, value in encoder.items():
        written = own[name.replace("weights/vision.", "model.vision_encoder.vision_encoder.")]
        assert torch.equal(written, value.half())
    single = VARIANTS[of_tokens(1)]  # which tells of all sides
    assert train(tmp_path / "one", single, replace(learned, sizes=single.sizes(SIZES)), tmp_path / "prepared")
    with pytest.raises(SystemExit, match="has not just ended the stages that all variants share"):
        train(tmp_path / "other", VARIANTS[FULL], learned, tmp_path / "nothing")


def test_a_variant_goes_on_from_the_words_that_are_prepared(tmp_path):
    prepared = tmp_path / "prepared"
    new_checkpoint(prepared, replace(SIZES, vocabulary=400), seed=3)
    begin_like(prepared, tmp_path / "own", replace(SIZES, mask_num=16))
    assert (tmp_path / "own/tokenizer.json").read_bytes() == (prepared / "tokenizer.json").read_bytes()
    one, other = (json.loads((folder / "config.json").read_text()) for folder in (prepared, tmp_path / "own"))
    assert other == one | {"mask_num": 16}


def test_the_settings_of_what_is_shared_are_those_it_was_prepared_with(tmp_path):
    args = arguments(["--out", str(tmp_path), "--prepared", str(tmp_path), "--infusion-steps", "12"])
    with pytest.raises(SystemExit, match=r"recipe\.json has to say how .* was trained"):
        settings_of(args, VARIANTS[FULL])
    recipe = {"side_steps": 8350, "reading_scenes": [3, 1], "infusion_steps": 5, "steps": [7, 7]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    settings = settings_of(args, VARIANTS[FULL])
    assert (settings.side_steps, settings.reading_scenes) == (8350, (3, 1))
    assert settings.infusion_steps == 12 and settings.steps == LanguageSettings().steps


def test_the_command_that_is_told_makes_all_variants_on_any_machine():
    given = ["--variants", FULL, "no-local", "--out", "/a/b", "--prepared", "/c", "--seed", "3"]
    told = command(given, arguments(given))
    assert told == "python bench/ablations.py --out OUT --prepared PREPARED --seed 3"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_smoke_run_trains_scores_and_reports_and_a_second_one_does_nothing_again(tmp_path):
    command = [sys.executable, str(_BENCH / "ablations.py"), "--out", str(tmp_path), "--smoke"]
    command += ["--variants", FULL, "mask-pooling", "--threads", "1", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert {path.parent.name for path in written} == {FULL, "mask-pooling"}
    page = (tmp_path / "ablations.md").read_text()
    assert "mean nothing" in page and "mask pooling" in page
    again = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0 and "training" not in again.stdout
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
