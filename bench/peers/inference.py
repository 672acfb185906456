"""Forward passes in every engine, all from the same weights, each checked before it is timed.

Every engine gets the images in the memory order that it likes best, and keeps float32: those that would
compute in bfloat16 on their own are told not to. One process holds one engine and all of its modes
('batch 64', 'batch 1').
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.engines import compile_now, import_torch, minicnn_facts, torch_facts
from bench.nets import NETS
from bench.peers.portable import Sample, load
from bench.worker import Engine, Mode, Unavailable, Wrong

TOLERANCE = 2e-5  # of the largest output
Forward = Callable[[], Any]


def make(name: str, folder: str, net: str, *, threads: int) -> Engine:
    """The engine called `name` with the net that `portable.prepare` wrote. Raises Unavailable."""
    sample = load(Path(folder) / f"{net}.npz")
    build, facts = ENGINES[name](net, sample, threads)

    def prepare(mode: str) -> Mode:
        batch = int(mode.removeprefix("batch "))
        forward = build(batch)
        error = relative_error(np.asarray(forward()), sample.expected[:batch])
        if not error <= TOLERANCE:
            raise Wrong(f"its output is off by {error:.1e} of the largest one, more than {TOLERANCE:.0e}")
        return Mode(forward, error)

    return Engine(prepare, facts)


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a part of the largest expected value. Shapes must be equal."""
    if result.shape != expected.shape:
        raise Wrong(f"its output has the shape {result.shape}, expected {expected.shape}")
    return float(np.abs(result - expected).max() / np.abs(expected).max())


Built = tuple[Callable[[int], Forward], Callable[[], dict[str, Any]]]


def _minicnn(net: str, sample: Sample, threads: int) -> Built:
    """minicnn's compiled plan."""
    import minicnn
    from minicnn import nn

    minicnn.set_num_threads(threads)
    model = NETS[net].build(nn).eval()
    model.load_state_dict({name: minicnn.from_numpy(array) for name, array in sample.state.items()})
    compiled = minicnn.compile(model)

    def build(batch: int) -> Forward:
        images = minicnn.from_numpy(sample.images[:batch])

        def forward() -> Any:
            with minicnn.no_grad():
                return compiled(images).numpy()

        return forward

    return build, minicnn_facts


def _torch(net: str, sample: Sample, threads: int, *, kind: str = "eager") -> Built:
    """PyTorch: eager, channels-last, or compiled by torch.compile with its weights frozen in."""
    torch = import_torch(threads)
    model = NETS[net].build(torch.nn).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in sample.state.items()})
    order = torch.contiguous_format if kind == "eager" else torch.channels_last
    model = model.to(memory_format=order).requires_grad_(False)
    if kind == "compiled":
        import torch._inductor.config as inductor

        inductor.freezing = True
        model = torch.compile(model, dynamic=False)

    def build(batch: int) -> Forward:
        images = torch.from_numpy(sample.images[:batch]).contiguous(memory_format=order)
        without_tape = torch.no_grad if kind == "compiled" else torch.inference_mode  # which freezing refuses

        def forward() -> Any:
            with without_tape():
                return model(images)

        if kind == "compiled":
            compile_now(forward)
        return forward

    return build, torch_facts


def _onnxruntime(net: str, sample: Sample, threads: int) -> Built:
    """ONNX Runtime on its own CPU provider."""
    runtime = import_peer("onnxruntime", "ONNX Runtime")
    import_peer("onnx", "onnx")
    from bench.peers.to_onnx import to_onnx

    def build(batch: int) -> Forward:
        images = sample.images[:batch]
        return onnxruntime_forward(runtime, to_onnx(sample.layers, images.shape[1:], batch), images, threads)

    return build, lambda: {"version": runtime.__version__, "threads": threads}


def onnxruntime_forward(runtime: Any, model: bytes, images: np.ndarray, threads: int) -> Forward:
    """A session of ONNX Runtime for a model with one input and one output, all graph optimizations."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["output"], {"input": images})[0]


def _openvino(net: str, sample: Sample, threads: int) -> Built:
    """OpenVINO told to compute in float32 (it would take bfloat16 where the processor has AMX)."""
    runtime = import_peer("openvino", "OpenVINO")
    import_peer("onnx", "onnx")
    from bench.peers.to_onnx import to_onnx

    settings = {"INFERENCE_PRECISION_HINT": "f32", **openvino_settings(threads)}

    def build(batch: int) -> Forward:
        images = sample.images[:batch]
        return openvino_forward(runtime, to_onnx(sample.layers, images.shape[1:], batch), images, settings)

    return build, lambda: {"version": version("openvino"), "threads": threads, **settings}


def openvino_settings(threads: int) -> dict[str, Any]:
    """One request at a time on so many threads."""
    return {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}


def openvino_forward(runtime: Any, model: bytes, images: np.ndarray, settings: dict[str, Any]) -> Forward:
    """A request of OpenVINO for a model in ONNX's form; input and output are not copied."""
    compiled = runtime.compile_model(runtime.Core().read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(runtime.Tensor(np.ascontiguousarray(images), shared_memory=True))
    result = request.get_output_tensor().data

    def forward() -> np.ndarray:
        request.infer()
        return result

    return forward


def _litert(net: str, sample: Sample, threads: int) -> Built:
    """LiteRT with XNNPACK, which it takes by itself. Images are channels-last before the stopwatch runs."""
    import_peer("ai_edge_litert", "LiteRT (ai-edge-litert)")
    import_peer("flatbuffers", "flatbuffers")
    from ai_edge_litert.interpreter import Interpreter

    from bench.peers.to_litert import to_litert

    def build(batch: int) -> Forward:
        images = sample.images[:batch]
        model = to_litert(sample.layers, images.shape[1:], batch)
        interpreter = Interpreter(model_content=model, num_threads=threads)
        interpreter.allocate_tensors()
        (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.set_tensor(source["index"], np.ascontiguousarray(images.transpose(0, 2, 3, 1)))

        def forward() -> np.ndarray:
            interpreter.invoke()
            return interpreter.get_tensor(result["index"])

        return forward

    return build, lambda: {"version": version("ai-edge-litert"), "threads": threads}


def _ncnn(net: str, sample: Sample, threads: int) -> Built:
    """ncnn, image by image (it has no batches), its 16-bit storage and arithmetic off."""
    runtime = import_peer("ncnn", "ncnn")
    from bench.peers.to_ncnn import to_ncnn

    network = runtime.Net()
    network.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, option, False)
    with tempfile.TemporaryDirectory() as folder:
        text, weights = to_ncnn(sample.layers, Path(folder))
        network.load_param(str(text))
        network.load_model(str(weights))
    first = sample.layers[0].inputs[0]

    def build(batch: int) -> Forward:
        images = [runtime.Mat(image).clone() for image in sample.images[:batch]]

        def forward() -> np.ndarray:
            outputs = []
            for image in images:
                extractor = network.create_extractor()
                extractor.input(first, image)
                outputs.append(np.array(extractor.extract("output")[1]))
            return np.stack(outputs)

        return forward

    return build, lambda: {"version": version("ncnn"), "threads": threads}


def import_peer(module: str, name: str) -> Any:
    """The module. Raises Unavailable with the engine's `name`."""
    from importlib import import_module

    try:
        with contextlib.redirect_stdout(None):
            return import_module(module)
    except ImportError as error:
        raise Unavailable(f"{name} is not installed") from error


ENGINES: dict[str, Callable[[str, Sample, int], Built]] = {
    "minicnn": _minicnn,
    "torch": _torch,
    "torch-channels-last": lambda *arguments: _torch(*arguments, kind="channels-last"),
    "torch-compile": lambda *arguments: _torch(*arguments, kind="compiled"),
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
    "ncnn": _ncnn,
}
