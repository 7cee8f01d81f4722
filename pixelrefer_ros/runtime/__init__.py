# SPDX-License-Identifier: Apache-2.0
"""Running a compiled or eager language model: backends, decoding with a KV cache, streamed text."""

from __future__ import annotations

from pixelrefer_ros.runtime.backends import BACKENDS, BackendInUse, choose_backend, open_backend
from pixelrefer_ros.runtime.decoding import (
    NO_TOKEN,
    AnswerRequest,
    Decoder,
    DecodingBatch,
    Finish,
    GeneratedToken,
    decode,
    decode_together,
    never,
)
from pixelrefer_ros.runtime.detokeniser import StreamingDetokeniser
from pixelrefer_ros.runtime.devices import named_device, named_dtype, torch_device
from pixelrefer_ros.runtime.graph_decoder import GraphDecoder
from pixelrefer_ros.runtime.manifest import (
    DataFile,
    Graph,
    Manifest,
    Profile,
    TensorSpec,
    file_hash,
    is_exported,
    read_manifest,
    verify_graph,
    write_manifest,
)
from pixelrefer_ros.runtime.onnxruntime_session import OnnxRuntimeBackend, OnnxRuntimeSession, newest_opset
from pixelrefer_ros.runtime.sampling import GREEDY, Sampling, TokenChooser
from pixelrefer_ros.runtime.session import Backend, Session, check_feeds, torch_dtype
from pixelrefer_ros.runtime.torch_precision import keep_float32
from pixelrefer_ros.runtime.torch_session import TorchSession, embedding_of

__all__ = [
    "BACKENDS",
    "GREEDY",
    "NO_TOKEN",
    "AnswerRequest",
    "Backend",
    "BackendInUse",
    "DataFile",
    "Decoder",
    "DecodingBatch",
    "Finish",
    "GeneratedToken",
    "Graph",
    "GraphDecoder",
    "Manifest",
    "OnnxRuntimeBackend",
    "OnnxRuntimeSession",
    "Profile",
    "Sampling",
    "Session",
    "StreamingDetokeniser",
    "TensorSpec",
    "TokenChooser",
    "TorchSession",
    "check_feeds",
    "choose_backend",
    "decode",
    "decode_together",
    "embedding_of",
    "file_hash",
    "is_exported",
    "keep_float32",
    "named_device",
    "named_dtype",
    "never",
    "newest_opset",
    "open_backend",
    "read_manifest",
    "torch_device",
    "torch_dtype",
    "verify_graph",
    "write_manifest",
]
