# SPDX-License-Identifier: Apache-2.0
"""The model as perception uses it: frames and masks in, streamed answers out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pixelrefer_ros.errors import BadQuestion, EmptyRegion, ImageError, ParameterError
from pixelrefer_ros.model import Finish, PixelReferLite, Sampling, TimedTokens, write_tiny_checkpoint

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PixelReferLite:
    return PixelReferLite.from_pretrained(
        write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "pixelrefer-tiny")
    )


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((120, 160), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.fixture(scope="module")
def tokens(model: PixelReferLite, rgb: np.ndarray) -> torch.Tensor:
    return model.encode_object(rgb, block(20, 30, 40, 50), model.encode_global(rgb))


def answer(model: PixelReferLite, text: str, *objects: list[TimedTokens], **settings: object) -> str:
    settings = {"max_new_tokens": 24, **settings}
    return "".join(event.text for event in model.generate(text, objects, **settings))  # type: ignore[arg-type]


def test_name_is_the_folders_and_tokens_are_n_by_d(model: PixelReferLite, tokens: torch.Tensor) -> None:
    assert model.name == "pixelrefer-tiny"
    assert tokens.shape == (model.config.mask_num, model.config.language.hidden_size)
    assert torch.isfinite(tokens).all()


def test_objects_encoded_together_are_as_encoded_alone(model: PixelReferLite, rgb: np.ndarray) -> None:
    masks = [block(20, 30, 40, 50), block(0, 0, 3, 4), block(10, 100, 100, 40)]
    whole = model.encode_global(rgb)
    together = model.encode_objects(rgb, masks, whole)
    for mask, found in zip(masks, together, strict=True):
        # Matrix products of other sizes add in another order; nothing may leak from one picture to another.
        torch.testing.assert_close(found, model.encode_object(rgb, mask, whole), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_empty_mask_and_mask_of_another_size_are_refused(model: PixelReferLite, rgb: np.ndarray) -> None:
    whole = model.encode_global(rgb)
    with pytest.raises(EmptyRegion):
        model.encode_object(rgb, np.zeros((120, 160), dtype=bool), whole)
    with pytest.raises(ImageError):
        model.encode_object(rgb, np.ones((160, 120), dtype=bool), whole)


def test_global_features_of_another_frame_size_are_refused(model: PixelReferLite, rgb: np.ndarray) -> None:
    whole = model.encode_global(rgb[:100])
    with pytest.raises(ImageError, match=r"\[100, 160\]"):
        model.encode_object(rgb, block(20, 30, 40, 50), whole)


def test_answer_is_the_same_each_time_and_depends_on_the_object(
    model: PixelReferLite, rgb: np.ndarray, tokens: torch.Tensor
) -> None:
    other = model.encode_object(rgb, block(70, 100, 30, 30), model.encode_global(rgb))
    first = answer(model, "What is <region>?", [TimedTokens(tokens)])
    assert first == answer(model, "What is <region>?", [TimedTokens(tokens)])
    assert first != answer(model, "What is <region>?", [TimedTokens(other)])


def test_questions_answered_together_get_the_texts_they_get_alone(
    model: PixelReferLite, rgb: np.ndarray, tokens: torch.Tensor
) -> None:
    other = model.encode_object(rgb, block(70, 100, 30, 30), model.encode_global(rgb))
    questions = [
        ("What is <region>?", [[TimedTokens(tokens)]]),
        ("What is it?", [[TimedTokens(other)]]),
        ("Is <region> left of <region>?", [[TimedTokens(tokens)], [TimedTokens(other)]]),
        ("What does <region> do?", [[TimedTokens(tokens, 0.0), TimedTokens(other, 1.5)]]),
    ]
    requests = [model.request(text, objects, max_new_tokens=24) for text, objects in questions]
    waiting, texts = iter(requests), dict.fromkeys(requests, "")
    for request, event in model.generate_together(lambda: next(waiting, None), max_batch=3):
        texts[request] += event.text
    assert list(texts.values()) == [answer(model, text, *objects) for text, objects in questions]
    assert len(set(texts.values())) == 4
    with pytest.raises(ParameterError, match="max_batch is 0"):
        model.generate_together(lambda: None, max_batch=0)


def test_two_regions_keep_their_order(model: PixelReferLite, rgb: np.ndarray, tokens: torch.Tensor) -> None:
    other = model.encode_object(rgb, block(70, 100, 30, 30), model.encode_global(rgb))
    one, two = [TimedTokens(tokens)], [TimedTokens(other)]
    assert answer(model, "Is <region> left of <region>?", one, two) != answer(
        model, "Is <region> left of <region>?", two, one
    )


def test_video_differs_from_picture_and_needs_times(model: PixelReferLite, tokens: torch.Tensor) -> None:
    picture = answer(model, "What does <region> do?", [TimedTokens(tokens)])
    video = answer(model, "What does <region> do?", [TimedTokens(tokens, 0.0), TimedTokens(tokens, 1.5)])
    assert picture != video
    with pytest.raises(BadQuestion):
        model.generate("What does <region> do?", [[TimedTokens(tokens)] * 2], max_new_tokens=4)


def test_only_the_last_event_finishes_and_length_is_kept(model: PixelReferLite, tokens: torch.Tensor) -> None:
    events = list(model.generate("What is <region>?", [[TimedTokens(tokens)]], max_new_tokens=9))
    assert len(events) <= 9
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish in (Finish.LENGTH, Finish.STOP)
    assert all(0 < event.probability <= 1 for event in events)


def test_streamed_text_is_the_tokenizers_text_of_all_ids(model: PixelReferLite, tokens: torch.Tensor) -> None:
    sampling = Sampling(temperature=3.0, seed=5)  # hot: many stray bytes, and whole special tokens
    ids, pieces = [], []
    events = model.generate(
        "What is <region>?", [[TimedTokens(tokens)]], max_new_tokens=400, sampling=sampling
    )
    for event in events:
        ids.append(event.token_id)
        pieces.append(event.text)
    assert len(ids) > 20
    assert "".join(pieces) == model._tokenizer.decode(ids)


def test_sampling_repeats_with_its_seed(model: PixelReferLite, tokens: torch.Tensor) -> None:
    def sampled(seed: int) -> str:
        sampling = Sampling(temperature=1.0, top_p=0.9, seed=seed)
        return answer(model, "What is <region>?", [TimedTokens(tokens)], sampling=sampling)

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_cancel_ends_after_the_token_in_work(model: PixelReferLite, tokens: torch.Tensor) -> None:
    taken: list[int] = []
    events = model.generate(
        "What is <region>?", [[TimedTokens(tokens)]], max_new_tokens=50, cancelled=lambda: len(taken) >= 3
    )
    for event in events:
        taken.append(event.token_id)
        last = event
    assert len(taken) == 4  # three tokens and the event that says so
    assert last.finish is Finish.CANCELLED


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("", 1),
        ("What is <region>?", 2),
        ("<region> and <region>", 1),
        ("Hello", 0),
        ("x" * 20_000 + "<region>", 1),
    ],
    ids=["empty", "too many objects", "too few objects", "no object", "longer than the context"],
)
def test_bad_question_is_refused_at_once(
    model: PixelReferLite, tokens: torch.Tensor, text: str, objects: int
) -> None:
    with pytest.raises(BadQuestion):
        model.generate(text, [[TimedTokens(tokens)]] * objects, max_new_tokens=4)


def test_no_room_for_a_token_is_refused(model: PixelReferLite, tokens: torch.Tensor) -> None:
    with pytest.raises(ParameterError):
        model.generate("What is <region>?", [[TimedTokens(tokens)]], max_new_tokens=0)


def test_answer_ends_where_the_context_does(tmp_path: Path, rgb: np.ndarray) -> None:
    model = PixelReferLite.from_pretrained(write_tiny_checkpoint(tmp_path, context_length=64))
    tokens = model.encode_object(rgb, block(20, 30, 40, 50), model.encode_global(rgb))
    events = list(model.generate("What is <region>?", [[TimedTokens(tokens)]], max_new_tokens=500))
    assert len(events) < 64
    assert events[-1].finish in (Finish.LENGTH, Finish.STOP)


@pytest.mark.parametrize("dtype", ["bfloat16", "fp16"])
def test_half_precision_answers_and_stays_near_float32(
    model: PixelReferLite, rgb: np.ndarray, tokens: torch.Tensor, tmp_path: Path, dtype: str
) -> None:
    half = PixelReferLite.from_pretrained(write_tiny_checkpoint(tmp_path), dtype=dtype)
    found = half.encode_object(rgb, block(20, 30, 40, 50), half.encode_global(rgb))
    assert found.dtype == {"bfloat16": torch.bfloat16, "fp16": torch.float16}[dtype]
    # k-means may give a patch near a border to another cluster, so single tokens may move: the mean must not.
    spread = tokens.std()
    assert (found.float().mean(dim=0) - tokens.mean(dim=0)).abs().max() < 0.2 * spread
    assert (
        list(half.generate("What is <region>?", [[TimedTokens(found)]], max_new_tokens=4))[-1].finish
        is not None
    )
