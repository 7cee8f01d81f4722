# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite: a frame and a mask to object tokens, object tokens and a question to text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from pixelrefer_ros.errors import BadQuestion, CheckpointError, ParameterError
from pixelrefer_ros.model.checkpoint import content_hash, load_network
from pixelrefer_ros.model.compiled import open_network
from pixelrefer_ros.model.config import PixelReferConfig
from pixelrefer_ros.model.hub import find_checkpoint
from pixelrefer_ros.model.prompt import TimedTokens, chat_pieces
from pixelrefer_ros.model.region_network import GlobalFeatures, ObjectTokens, RegionNetwork
from pixelrefer_ros.model.tokenizer import ChatTokenizer
from pixelrefer_ros.runtime import (
    BACKENDS,
    GREEDY,
    AnswerRequest,
    Backend,
    BackendInUse,
    GeneratedToken,
    Sampling,
    StreamingDetokeniser,
    choose_backend,
    decode,
    decode_together,
    file_hash,
    named_dtype,
    never,
    open_backend,
    read_manifest,
    torch_device,
)
from pixelrefer_ros.runtime.manifest import MANIFEST
from pixelrefer_ros.types import Mask, RgbImage

MAX_BATCH = 8
"""Questions decoded together where nothing else is said: as many as exported decoders take."""


class PixelReferLite:
    """A loaded model with its tokenizer. Calls share no state: one instance serves several threads.

    Attributes:
        name: the last part of the folder or hub id it came from.
        content_hash: hex SHA-256 over config, weights and tokenizer files.
        in_use: what runs the networks, and why.
        network: the networks themselves.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        network: RegionNetwork,
        tokenizer: ChatTokenizer,
        in_use: BackendInUse | None = None,
    ) -> None:
        """A model of these parts; without ``in_use`` the networks are torch's."""
        self.name = name
        self.content_hash = digest
        self.in_use = in_use or _in_torch(network, "the networks are torch's")
        self.network = network
        self._tokenizer = tokenizer
        self._decoder = network.decoder()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        backend: str = "auto",
        engines: Path | None = None,
    ) -> PixelReferLite:
        """Loads a checkpoint in the released layout, or an exported folder.

        Args:
            path_or_id: a folder, or an id on the Hugging Face hub.
            device: "cpu", "cuda" or "cuda:N".
            dtype: "float32", "bfloat16" ("bf16") or "float16" ("fp16"); of the weights and the computation;
                an exported folder has its own.
            backend: what runs the networks, see `choose_backend`.
            engines: where an exported folder's TensorRT engines lie; None: in the folder.

        Raises:
            CheckpointError: the checkpoint cannot be loaded; the message says what to change.
            ParameterError: an unknown device, dtype or backend, or one this machine does not have.
        """
        place, number = torch_device(device), named_dtype(dtype)
        if backend not in BACKENDS:
            choose_backend(backend)  # says which there are, before anything is fetched
        folder, name = find_checkpoint(path_or_id)
        chosen, reason = choose_backend(backend, folder, device, engines)
        if chosen != "torch":
            return cls._from_exported(folder, open_backend(chosen, str(place), engines), place, reason)
        with ThreadPoolExecutor(1) as beside:  # hashing reads what loading reads: together they cost one pass
            digest = beside.submit(content_hash, folder)
            network = load_network(folder, device=place, dtype=number)
            tokenizer = ChatTokenizer(folder)
        _check_region_token(folder, network.config, tokenizer)
        return cls(name, digest.result(), network, tokenizer, _in_torch(network, reason))

    @classmethod
    def _from_exported(
        cls, folder: Path, backend: Backend, device: torch.device, reason: str
    ) -> PixelReferLite:
        """An exported folder; its precision is its own."""
        network = open_network(folder, backend, device)
        tokenizer = ChatTokenizer(folder)
        _check_region_token(folder, network.config, tokenizer)
        manifest = read_manifest(folder)
        in_use = BackendInUse(backend.name, str(network.device), manifest.precision, reason)
        # The manifest holds the hash of every graph.
        return cls(manifest.name, file_hash(folder / MANIFEST), network, tokenizer, in_use)

    @property
    def backend(self) -> str:
        """The name of what runs the networks."""
        return self.in_use.name

    @property
    def config(self) -> PixelReferConfig:
        """What shapes the computation."""
        return self.network.config

    def encode_global(self, rgb: RgbImage) -> GlobalFeatures:
        """Encodes a whole frame; once per frame, for all its objects.

        Args:
            rgb: (H, W, 3) uint8 RGB.

        Raises:
            ImageError: not an RGB picture.
        """
        return self.network.encode_global(rgb)

    def encode_object(self, rgb: RgbImage, mask: Mask, global_features: GlobalFeatures) -> ObjectTokens:
        """Encodes one object of a frame; once per object and frame, for all questions.

        Args:
            rgb: (H, W, 3) uint8 RGB.
            mask: (H, W) bool.
            global_features: `encode_global` of the same frame.

        Returns:
            (n, D) object tokens.

        Raises:
            EmptyRegion: the mask has no pixel.
            ImageError: not an RGB picture, or the mask or the features are of another size.
        """
        return self.network.encode_objects(rgb, [mask], global_features)[0]

    def encode_objects(
        self, rgb: RgbImage, masks: Sequence[Mask], global_features: GlobalFeatures
    ) -> list[ObjectTokens]:
        """Encodes several objects of a frame together; see `encode_object`."""
        return self.network.encode_objects(rgb, masks, global_features)

    def request(
        self,
        text: str,
        objects: Sequence[Sequence[TimedTokens]],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> AnswerRequest:
        """A question made ready for `generate_together`; each request is answered once.

        Args:
            text: the question, with one ``<region>`` per object, in order; with none, the objects come first.
            objects: the frames of each object, oldest first. A single frame whose time is None is a picture;
                anything else is a video, and each frame needs its time.
            max_new_tokens: at most so many tokens; the room left in the context bounds them too.
            sampling: how tokens are chosen; greedily by default.
            cancelled: asked before every token; True ends the answer with CANCELLED.

        Raises:
            BadQuestion: an empty text, another number of ``<region>`` than of objects, or a prompt that does
                not fit the context.
            ParameterError: max_new_tokens below 1.
        """
        if max_new_tokens < 1:
            raise ParameterError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        times = [[frame.time_s for frame in frames] for frames in objects]
        ids = self._tokenizer.encode(chat_pieces(text, times, self.config.mask_num))
        room = self._decoder.context_length
        if len(ids) >= room:
            raise BadQuestion(
                f"the prompt has {len(ids)} tokens and the model's context is {room}: "
                "shorten the question or ask about fewer objects or frames"
            )
        embeddings = self.network.prompt_embeddings(
            ids, [frame.tokens for frames in objects for frame in frames]
        )
        return AnswerRequest(
            embeddings,
            detokeniser=StreamingDetokeniser(self._tokenizer.token_bytes),
            sampling=sampling or GREEDY,
            stop_ids=self._tokenizer.stop_ids,
            max_new_tokens=max_new_tokens,
            cancelled=cancelled,
        )

    def generate(
        self,
        text: str,
        objects: Sequence[Sequence[TimedTokens]],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[GeneratedToken]:
        """Answers a question, token by token; for the arguments and what is raised see `request`.

        Returns:
            The answer's tokens; the work is done as they are taken. The last one carries a `Finish`.
        """
        request = self.request(
            text, objects, max_new_tokens=max_new_tokens, sampling=sampling, cancelled=cancelled
        )
        return decode(self._decoder, request)

    def generate_together(
        self, waiting: Callable[[], AnswerRequest | None], *, max_batch: int = MAX_BATCH
    ) -> Iterator[tuple[AnswerRequest, GeneratedToken]]:
        """Answers several questions together, each as it would be answered alone.

        Args:
            waiting: the next request (see `request`), or None if none waits now: asked before each step while
                there is room, so that questions may come while others are answered. None while nothing is
                decoded ends the work.
            max_batch: questions decoded together, at most; the backend may take fewer.

        Returns:
            A request and its next token, as they come; the work is done as they are taken. A request's last
            token carries a `Finish`.

        Raises:
            ParameterError: max_batch below 1.
        """
        if max_batch < 1:
            raise ParameterError(f"max_batch is {max_batch}; it must be at least 1")
        return decode_together(self._decoder, waiting, max_batch=max_batch)


def _in_torch(network: RegionNetwork, reason: str) -> BackendInUse:
    return BackendInUse("torch", str(network.device), str(network.dtype).removeprefix("torch."), reason)


def _check_region_token(folder: Path, config: PixelReferConfig, tokenizer: ChatTokenizer) -> None:
    if tokenizer.region_id >= config.language.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer's <REGION> is {tokenizer.region_id}, beyond the model's vocab_size "
            f"{config.language.vocab_size}"
        )
    if config.region_token_id != tokenizer.region_id:
        raise CheckpointError(
            f"{folder}: region_token_index is {config.region_token_id} in config.json, "
            f"but the tokenizer's <REGION> is {tokenizer.region_id}: the tokenizer belongs to another model"
        )
