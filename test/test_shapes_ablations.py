# SPDX-License-Identifier: Apache-2.0
"""The ablations: each variant changes what it says it changes; the report claims no more than was seen."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from ablation_report import lines, plot
from ablation_variants import FULL, TOKEN_NUMBERS, VARIANTS, of_tokens
from ablation_verdicts import (
    CATEGORY,
    CLAIMS,
    MEASURES,
    NEIGHBOURS,
    TWINS,
    Measured,
    change,
    gap_verdict,
    spread,
    verdict,
)
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


def test_every_claim_is_about_variants_that_are_trained():
    assert {name for claim in CLAIMS for name in (claim.worse, claim.better)} <= set(VARIANTS)
    assert {claim.table for claim in CLAIMS} == {"7", "8", "9"}


def test_a_difference_within_the_noise_says_nothing():
    # Standard error of a difference of two shares near 0.5 of 100 answers each: 7 points.
    assert verdict(Measured(0.45, 100), Measured(0.55, 100)).startswith("too close")
    assert verdict(Measured(0.30, 100), Measured(0.55, 100)) == "as in the paper (+25.0)"
    assert verdict(Measured(0.55, 100), Measured(0.30, 100)) == "NOT as in the paper (-25.0)"
    assert verdict(None, Measured(0.3, 100)) == "not measured"
    # All of three right is no certainty.
    assert verdict(Measured(0.6667, 3), Measured(1.0, 3)).startswith("too close")


def result(name: str, small: float, large: float) -> dict:
    scores = {
        f"category, {size}": {"count": 1000, "correct": round(1000 * share), "stated": 0, "true": 0}
        | {"expected": 0, "recalled": 0}
        for size, share in (("small", small), ("large", large))
    }
    scores["category"] = scores["category, small"]
    return {
        "variant": name,
        "title": VARIANTS[name].title,
        "scores": scores,
        "parameters": 1_000_000,
        "recipe": {
            "steps": [10, 10],
            "seed": 0,
            "scenes": 4,
            "attribute_steps": 7,
            "frame_steps": 6,
            "side_steps": 2,
            "reading_steps": 8,
            "infusion_steps": 5,
        },
        "test_scenes": 9,
        "questions": 5,
        "smoke": False,
        "command": "python bench/ablations.py",
        "commit": "abc",
        "machine": {"device": "a machine", "threads": 1, "torch": "2"},
    }


def test_the_gain_on_small_regions_is_held_against_that_on_large_ones():
    full = result(FULL, 0.9, 0.9)
    assert gap_verdict({FULL: full, "mask-pooling": result("mask-pooling", 0.5, 0.8)}).startswith("as in")
    assert gap_verdict({FULL: full, "mask-pooling": result("mask-pooling", 0.8, 0.5)}).startswith("NOT as")
    assert gap_verdict({FULL: full, "mask-pooling": result("mask-pooling", 0.7, 0.7)}).startswith("too close")
    assert gap_verdict({FULL: full}) is None


def test_a_change_that_the_paper_has_no_number_for_is_told_beyond_the_noise_only():
    assert change(Measured(0.3, 500), Measured(0.7, 500)) == "+40.0"
    assert change(Measured(0.7, 500), Measured(0.3, 500)) == "-40.0"
    assert change(Measured(0.5, 50), Measured(0.52, 50)) == "too close to tell (+2.0)"
    assert change(None, Measured(0.5, 50)) == "not measured"


def test_what_learned_the_same_tells_how_far_runs_differ():
    """Where nothing taught local infusion, rows that differ in it alone are two runs of one thing."""
    shares = dict(zip((name for pair in TWINS for name in pair), (0.70, 0.73, 0.50, 0.54), strict=True))
    ran = {name: result(name, share, share) for name, share in shares.items()}
    assert spread(ran, CATEGORY) == 0, "they learned something"
    for each in ran.values():
        each["recipe"]["steps"] = [0, 0]
    assert spread(ran, CATEGORY) == pytest.approx(((0.03**2 + 0.04**2) / 2) ** 0.5)
    assert spread(ran, NEIGHBOURS) == 0, "never asked"
    # 6.5 points are more than 2 standard errors of 2000 answers (4.3), and less than twice 3.5.
    assert verdict(Measured(0.600, 1000), Measured(0.665, 1000)) == "as in the paper (+6.5)"
    assert verdict(Measured(0.600, 1000), Measured(0.665, 1000), 0.035).startswith("too close")
    assert change(Measured(0.600, 1000), Measured(0.665, 1000), 0.035).startswith("too close")


def test_the_page_claims_nothing_of_local_infusion_that_has_not_learned():
    taught = [result(name, 0.6, 0.7) for name in VARIANTS]
    silent = [each | {"recipe": each["recipe"] | {"steps": [0, 0]}} for each in taught]
    pairs = [f"| {VARIANTS[worse].title} < {VARIANTS[better].title} |" for worse, better in TWINS]
    for results, told in ((taught, False), (silent, True)):
        page = list(lines(results))
        rows = [line for line in page if any(pair in line for pair in pairs)]
        assert len(rows) == 2 and all(("not measured" in row.split("|")[3]) == told for row in rows)
        assert any("Local infusion was not measured" in line for line in page) == told


def test_one_command_is_listed_once_with_all_its_commits():
    results = [result(FULL, 0.6, 0.7), result("no-local", 0.6, 0.7) | {"commit": "def"}]
    last = list(lines(results))[-1]
    assert last == "- `python bench/ablations.py`, commit abc and def, on a machine (1 thread, torch 2)"


def test_the_page_has_every_variant_and_the_plot_is_a_picture():
    results = [result(name, 0.6, 0.7) for name in VARIANTS]
    page = "\n".join(lines(results))
    for each in results:
        assert each["title"] in page
    assert (
        "7 steps on attributes, 6 steps on frames, 2 steps on sides, 8 steps of reading, "
        "5 steps of infusion, 10 + 10 steps of 4 scenes"
    ) in page
    assert "60.0 ± 1.5" in page and all(measure.title in page for measure in MEASURES)
    assert ElementTree.fromstring("\n".join(plot(results))).tag.endswith("svg")  # noqa: S314 (our own text)


def test_what_variants_share_is_learned_once(tmp_path):
    learned = LanguageSettings(
        attribute_steps=1,
        attribute_scenes=1,
        frame_steps=1,
        side_steps=1,
        infusion_steps=0,  # which each variant learns by itself
        led_steps=2,
        infusion_scenes=1,
        infusion_batches=2,
        frame_scenes=1,
        reading_steps=1,
        reading_scenes=(1, 1),
        steps=(0, 0),
        sizes=SIZES,
        workers=0,
        validate_every=0,
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
