# SPDX-License-Identifier: Apache-2.0
"""The paper's ablations at small scale: the same model trained on the shapes world with parts changed.

    python bench/ablations.py --out DIR [--minutes M] [--variants full no-global ...]

trains every variant of Tables 7, 8 and 9 with the project's own training, scores it on scenes of the test
split, and, once all are done, writes ``docs/ablations.md`` with its plot. It goes on where it was stopped;
what is done is not done again. ``--minutes`` bounds each variant in each call. What no variant changes, that
the vision encoder can see and the language model can read, can be learned once: ``--prepared`` takes it from
the folder of ``pixelrefer train language --infusion-steps 0 --steps 0 0``, and how it was learned from the
recipe there. Two calls with other variants may run side by side; the last one, with all, writes the page and
``bench/results/ablations.json``. ``--smoke`` shows that everything runs, in a model far too small to learn
anything, and writes into ``--out`` only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from ablation_report import write_report
from ablation_variants import VARIANTS, Variant
from machine import commit, machine
from safetensors.torch import load_file, save_file

from pixelrefer_ros.model import TOKENIZER_FILES, PixelReferLite, PixelReferNetwork, TimedTokens
from pixelrefer_ros.training import language_loss, reading
from pixelrefer_ros.training.checkpoints import (
    CONFIG,
    Sizes,
    parameter_count,
    tokenizer_of,
    trainable_network,
)
from pixelrefer_ros.training.data import make_batch
from pixelrefer_ros.training.language import train_language
from pixelrefer_ros.training.language_settings import RECIPE, TRAINING, LanguageSettings
from pixelrefer_ros.training.loop import PROGRESS, STATE, read_progress
from pixelrefer_ros.training.readings import COMPARISONS, SIDES, SIGNS
from pixelrefer_ros.training.scoring import AnswerScores, RowScore
from pixelrefer_ros.training.scoring.answers import answered
from pixelrefer_ros.training.side_heads import SideHeads
from pixelrefer_ros.training.world import Example, scene_examples, scene_seeds

RESULT = "result.json"
SHARED = ("attribute_", "frame_", "side_", "reading_")
"""What the settings begin with of stages that all variants share."""
HISTORY = "history"
"""In a recipe: how it really was learned, where no one command did."""
SMALL_PX = 2000
"""Fig. 12: regions of fewer pixels are small."""

_ROOT = Path(__file__).resolve().parent.parent
_SMOKE = Sizes(
    vision_width=32, vision_layers=1, language_width=32, language_layers=1, vocabulary=512, patch_budget=64
)


def train(folder: Path, variant: Variant, settings: LanguageSettings, prepared: Path | None) -> bool:
    """Trains a variant, or goes on with it; whether it is finished."""
    if prepared is not None and read_progress(folder / TRAINING) is None:
        progress = read_progress(prepared / TRAINING)
        if progress is None or progress["stage"] != reading.STAGE or progress["step"] < progress["steps"]:
            raise SystemExit(f"{prepared} has not just ended the stages that all variants share: {progress}")
        begin_like(prepared, folder, settings.sizes)
        for name in (STATE, PROGRESS, SIGNS, SIDES, COMPARISONS):
            shutil.copy(prepared / TRAINING / name, folder / TRAINING)
        read_all_sides(folder / TRAINING / SIDES, settings.sizes.mask_num)
        read_all_sides(folder / TRAINING / STATE, settings.sizes.mask_num, prefix="weights/sides.")
    with variant.in_place():
        return train_language(folder, settings)


def begin_like(prepared: Path, folder: Path, sizes: Sizes) -> None:
    """A folder for a variant's run: its words are those that the prepared language model has learned."""
    (folder / TRAINING).mkdir(parents=True)
    for file in map(prepared.joinpath, TOKENIZER_FILES):
        if file.is_file():
            shutil.copy(file, folder)
    config = json.loads((prepared / CONFIG).read_text(encoding="utf-8")) | {"mask_num": sizes.mask_num}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def read_all_sides(file: Path, count: int, prefix: str = "") -> None:
    """Where ``count`` tokens are fewer than sides, each tells of several, by readings that begin alike."""
    values = load_file(file)
    first = f"{prefix}words.0."
    for name in [name for name in values if name.startswith(first)]:
        for place in range(1, len(SideHeads(1, count).words)):
            values[f"{prefix}words.{place}.{name.removeprefix(first)}"] = values[name].clone()
    save_file(values, file)


def score(folder: Path, variant: Variant, *, seed: int, scenes: int, questions: int) -> dict[str, Any]:
    """Scores a trained variant on test scenes; plain values.

    Args:
        folder: of its checkpoint.
        variant: what it is.
        seed: which scenes.
        scenes: how many.
        questions: per scene.
    """
    scores, by_size = AnswerScores(), {"small": RowScore(), "large": RowScore()}
    with variant.in_place(), torch.inference_mode():
        network = variant.change(trainable_network(folder))
        model = PixelReferLite(variant.name, "", network, tokenizer_of(folder))
        asked = (
            pair for s in scene_seeds("test", seed, scenes) for pair in looks(network, folder, s, questions)
        )
        for example, answer in answered(model, asked):
            scores.add(example, answer)
            if example.kind == "category":
                small = example.masks[0][-1].sum() < SMALL_PX
                by_size["small" if small else "large"].add(example.judge(answer))
    plain = {name: asdict(row) for name, row in (scores.rows | scores.kinds).items()}
    plain |= {f"category, {size}": asdict(row) for size, row in by_size.items()}
    return {"parameters": parameter_count(network), "scores": plain}


def looks(
    network: PixelReferNetwork, folder: Path, scene_seed: int, questions: int
) -> Iterator[tuple[Example, list[list[TimedTokens]]]]:
    """Questions about a scene, with object tokens made as in training: there the variants take effect."""
    examples = list(scene_examples(scene_seed, questions, moments=2))
    if not examples:
        return
    batch = make_batch(examples, tokenizer_of(folder), network.config)
    tokens = language_loss.view_tokens(network, batch)
    views = iter(batch.views)
    for example in examples:
        yield example, [[TimedTokens(tokens[next(views)], t) for t in example.times_s] for _ in example.masks]


def prepared_recipe(prepared: Path | None) -> dict[str, Any]:
    """How what all variants share was learned; empty if each learns it."""
    if prepared is None:
        return {}
    file = prepared / RECIPE
    try:
        recipe: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{file} has to say how {prepared} was trained: {error}") from error
    return recipe


def settings_of(args: argparse.Namespace, variant: Variant) -> LanguageSettings:
    """One training run; whatever is not told is the project's default."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    asked = {name: getattr(args, name) for name in ("scenes", "infusion_steps", "infusion_batches")}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    recipe = prepared_recipe(args.prepared)
    given |= {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in fields(LanguageSettings)
        if field.name.startswith(SHARED) and (value := recipe.get(field.name)) is not None
    }
    if args.smoke:  # the stages that have settings of their own, too
        given |= {field.name: 2 for field in fields(LanguageSettings) if field.name.endswith("_steps")}
        given["infusion_batches"] = 2
    return LanguageSettings(
        seed=args.seed,
        steps=tuple(args.steps),
        sizes=variant.sizes(_SMOKE if args.smoke else Sizes()),
        workers=args.workers,
        device=device,
        bf16=args.bf16 or device == "cuda",
        minutes=args.minutes,
        validate_every=0,  # the last weights, in every variant
        **given,
    )


def command(given: Sequence[str], args: argparse.Namespace) -> str:
    """What makes all variants: with no folders of this machine, and none of the variants alone."""
    named = {str(args.out): "OUT", str(args.prepared): "PREPARED"}
    words = [named.get(word, word) for word in given]
    if "--variants" in words:
        first = words.index("--variants")
        while len(words) > first + 1 and words[first + 1] in VARIANTS:
            del words[first + 1]
        del words[first]
    return shlex.join(["python", "bench/ablations.py", *words])


def ran_on(device: str) -> dict[str, Any]:
    """The device, by name."""
    here = machine()
    name = torch.cuda.get_device_name() if device == "cuda" else f"{here['cpu']}, {here['cores']} cores"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains and scores what is left to do; the results of all variants that are done."""
    results = []
    for name in args.variants:
        variant, folder = VARIANTS[name], args.out / name
        asked = {"steps": list(args.steps), "seed": args.seed, "test_seed": args.test_seed}
        asked |= {"infusion_steps": args.infusion_steps, "infusion_batches": args.infusion_batches}
        asked |= {"test_scenes": args.test_scenes, "questions": args.questions, "smoke": args.smoke}
        if (folder / RESULT).is_file():
            known = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            if {key: known.get(key) for key in asked} != asked:
                raise SystemExit(f"{folder / RESULT} is of another run: give its arguments, or another --out")
            results.append(known)
            continue
        settings, started = settings_of(args, variant), time.monotonic()
        print(f"{name}: training", flush=True)
        if not train(folder, variant, settings, args.prepared):
            print(f"{name}: stopped after {args.minutes:g} minutes; the same command goes on", flush=True)
            continue
        scored = score(
            folder, variant, seed=args.test_seed, scenes=args.test_scenes, questions=args.questions
        )
        result = {"variant": name, "title": variant.title} | asked | scored
        result |= {"recipe": json.loads((folder / RECIPE).read_text(encoding="utf-8"))}
        result |= {HISTORY: prepared_recipe(args.prepared).get(HISTORY)}
        result |= {"command": command(sys.argv[1:], args), "commit": commit()}
        result |= {"machine": ran_on(settings.device), "seconds": round(time.monotonic() - started, 1)}
        (folder / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        results.append(result)
    return results


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says, or the list given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder per variant")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    default = LanguageSettings().steps
    parser.add_argument("--steps", type=int, nargs=len(default), default=default, help="of each stage")
    parser.add_argument("--prepared", type=Path, help="folder of what all variants share")
    parser.add_argument("--scenes", type=int, help="per step; default: as `pixelrefer train`")
    parser.add_argument("--infusion-steps", type=int, help="default: as `pixelrefer train`")
    parser.add_argument("--infusion-batches", type=int, help="that are seen before; likewise")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="of each variant in this call; 0: to the end"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and training scenes")
    parser.add_argument("--test-seed", type=int, default=0, help="which test scenes")
    parser.add_argument("--test-scenes", type=int, default=200)
    parser.add_argument("--questions", type=int, default=12, help="per test scene")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, help="on a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16; on a GPU it always does")
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs", help="where the report goes")
    parser.add_argument("--json", type=Path, default=_ROOT / "bench/results/ablations.json", help="numbers")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model")
    args = parser.parse_args(given)
    if args.smoke:
        args.steps, args.scenes, args.workers = tuple(2 for _ in args.steps), 1, 0
        args.test_scenes, args.docs, args.json = 2, args.out, args.out / "ablations.json"
    return args


def main() -> int:
    """Trains, scores, reports."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    results = run(args)
    if len(results) < len(args.variants):
        print(f"{len(results)} of {len(args.variants)} variants are done: no report yet")
    else:
        lines = ",\n".join(map(json.dumps, results))  # one for each variant
        args.json.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        print(f"written: {write_report(results, args.docs)}, {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
