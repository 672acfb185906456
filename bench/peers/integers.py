"""Forward passes in 8-bit integers in every engine that has them, all from the same float32 weights.

Each engine is given what its own guide asks for: weights of 8 bits with a scale per channel, activations with
the ranges that they have on the images that are timed. Their rounding differs, so that an engine may differ
from the floats by `TOLERANCE` of the largest output, and not more: one that computes something else is not
timed. The processes are as in `inference.py`; ours in float32 runs beside them.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.engines import import_torch, minicnn_facts, torch_facts
from bench.nets import NETS
from bench.peers import inference
from bench.peers.inference import Built, Forward
from bench.peers.portable import Sample, load
from bench.worker import Engine, Mode, Unavailable, Wrong

TOLERANCE = 0.1


def make(name: str, folder: str, net: str, *, threads: int) -> Engine:
    """The engine called `name` with the net that `portable.prepare` wrote. Raises Unavailable."""
    sample = load(Path(folder) / f"{net}.npz")
    build, facts = ENGINES[name](net, sample, threads)

    def prepare(mode: str) -> Mode:
        batch = int(mode.removeprefix("batch "))
        forward = build(batch)
        error = inference.relative_error(np.asarray(forward()), sample.expected[:batch])
        if not error <= TOLERANCE:
            raise Wrong(f"its output is off by {error:.1e} of the largest one, more than {TOLERANCE:.0e}")
        return Mode(forward, error)

    return Engine(prepare, facts)


def _minicnn(net: str, sample: Sample, threads: int) -> Built:
    """minicnn: quantized after training, written into a file, loaded from it."""
    import minicnn
    from minicnn import deploy, nn
    from minicnn.compress import quantize

    minicnn.set_num_threads(threads)
    model = NETS[net].build(nn).eval()
    model.load_state_dict({name: minicnn.from_numpy(array) for name, array in sample.state.items()})
    quantize(model, [minicnn.from_numpy(sample.images)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.mcnn"
        deploy.save(model, path, minicnn.from_numpy(sample.images[:2]))
        artefact = deploy.load(path)

    def build(batch: int) -> Forward:
        images = sample.images[:batch]
        return lambda: artefact(images)

    return build, minicnn_facts


def quantized_onnx(sample: Sample, batch: int) -> bytes:
    """The net in ONNX's QDQ form, uint8 and int8 per channel, by ONNX Runtime's own tool."""
    import onnx
    from onnxruntime import quantization

    from bench.peers.to_onnx import to_onnx

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            batches = (sample.images[i : i + batch] for i in range(0, len(sample.images), batch))
            self.feeds = iter([{"input": images} for images in batches])

        def get_next(self) -> Any:
            return next(self.feeds, None)

    logging.getLogger().setLevel(logging.ERROR)  # it asks for a step that these models do not need
    model = onnx.load_from_string(to_onnx(sample.layers, sample.images.shape[1:], batch))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        quantization.quantize_static(
            model,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return path.read_bytes()


def _onnxruntime(net: str, sample: Sample, threads: int) -> Built:
    """ONNX Runtime, from the QDQ model."""
    runtime = inference.import_peer("onnxruntime", "ONNX Runtime")
    inference.import_peer("onnx", "onnx")

    def build(batch: int) -> Forward:
        model = quantized_onnx(sample, batch)
        return inference.onnxruntime_forward(runtime, model, sample.images[:batch], threads)

    return build, lambda: {"version": runtime.__version__, "threads": threads}


def _openvino(net: str, sample: Sample, threads: int) -> Built:
    """OpenVINO, from the same QDQ model."""
    runtime = inference.import_peer("openvino", "OpenVINO")
    inference.import_peer("onnxruntime", "ONNX Runtime")
    settings = inference.openvino_settings(threads)

    def build(batch: int) -> Forward:
        model = quantized_onnx(sample, batch)
        return inference.openvino_forward(runtime, model, sample.images[:batch], settings)

    return build, lambda: {"version": version("openvino"), "threads": threads, **settings}


def _torch(net: str, sample: Sample, threads: int) -> Built:
    """PyTorch's FX quantization with the engine x86, channels-last images."""
    torch = import_torch(threads)
    model = NETS[net].build(torch.nn).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in sample.state.items()})
    images = torch.from_numpy(sample.images)
    try:
        from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx
    except ImportError as error:
        raise Unavailable("this PyTorch has no quantization") from error
    torch.backends.quantized.engine = "x86"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that it will go one day
        prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (images[:1],))
        prepared(images)
        quantized = quantize_fx.convert_fx(prepared)

    def build(batch: int) -> Forward:
        x = images[:batch].contiguous(memory_format=torch.channels_last)

        def forward() -> Any:
            with torch.inference_mode():
                return quantized(x)

        return forward

    return build, torch_facts


ENGINES: dict[str, Callable[[str, Sample, int], Built]] = {
    "minicnn-int8": _minicnn,
    "onnxruntime-int8": _onnxruntime,
    "openvino-int8": _openvino,
    "torch-int8": _torch,
    "minicnn": inference.ENGINES["minicnn"],
}
