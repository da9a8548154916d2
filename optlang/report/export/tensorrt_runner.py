"""The parts of `run.py` for an engine of TensorRT, and the script that builds it again where it does not fit."""

from __future__ import annotations

PROGRAM = {
    "package": "the library that built it, {library} {version}, and pip install cuda-bindings numpy",
    "imports": "from cuda.bindings import runtime as cuda\n\nimport {library} as trt\n",
    "load": '''    """The engine on the GPU; where it does not fit, build.sh builds it from the ONNX file."""
    stream = call(cuda.cudaStreamCreate)
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine((HERE / {file!r}).read_bytes())
    if engine is None:
        sys.exit("error: the engine was built with {library} {version} for {compute}; build.sh builds it again")
    if not hasattr(trt, "CudaGraphStrategy"):
        return runtime, engine, engine.create_execution_context(), stream
    # As it was measured: kernels are compiled for their shapes before the first call.
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    if {replayed!r}:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return runtime, engine, engine.create_execution_context(config), stream
''',
    "run": """    names = {inputs!r}
    count = len(inputs[names[0]])
    # More samples than the engine's profile takes are answered in several calls.
    most = {most!r} or count
    pieces = [
        once(model, {name: inputs[name][start:start + most] for name in names}) for start in range(0, count, most)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in {outputs!r}}
""",
    "zeros": '''def call(function, *arguments):
    """What a CUDA function returns besides its status."""
    status, *values = function(*arguments)
    if status != cuda.cudaError_t.cudaSuccess:
        sys.exit(f"error: {function.__name__}: {cuda.cudaGetErrorString(status)[1].decode()}")
    return values[0] if values else None


def once(model, inputs):
    """The answers to no more samples than the engine takes."""
    _, engine, context, stream = model
    kinds = cuda.cudaMemcpyKind
    arrays = {}
    for name, item in inputs.items():
        arrays[name] = np.ascontiguousarray(item, trt.nptype(engine.get_tensor_dtype(name)))
        if not context.set_input_shape(name, item.shape):
            sys.exit(f"error: the engine does not take {name} with the shape {item.shape}")
    for name in {outputs!r}:
        shape = tuple(context.get_tensor_shape(name))
        arrays[name] = np.empty(shape, trt.nptype(engine.get_tensor_dtype(name)))
    places = {name: call(cuda.cudaMalloc, max(1, item.nbytes)) for name, item in arrays.items()}
    for name, place in places.items():
        context.set_tensor_address(name, int(place))
    for name in inputs:
        item = arrays[name]
        call(cuda.cudaMemcpy, places[name], item.ctypes.data, item.nbytes, kinds.cudaMemcpyHostToDevice)
    if not context.execute_async_v3(int(stream)):
        sys.exit("error: the engine failed")
    call(cuda.cudaStreamSynchronize, stream)
    for name in {outputs!r}:
        item = arrays[name]
        call(cuda.cudaMemcpy, item.ctypes.data, places[name], item.nbytes, kinds.cudaMemcpyDeviceToHost)
    for place in places.values():
        call(cuda.cudaFree, place)
    return {name: arrays[name] for name in {outputs!r}}


def zeros(model):
    """Inputs of the right types and shapes; axes of any length are 1."""
    engine = model[1]
    return {
        name: np.zeros([max(1, size) for size in engine.get_tensor_shape(name)],
                       trt.nptype(engine.get_tensor_dtype(name)))
        for name in {inputs!r}
    }
''',
}

SCRIPT = """#!/bin/sh
# Builds the artifact again from the files next to it, with the library and for the GPU of this machine.
set -e
cd "$(dirname "$0")"
exec {command} "$@"
"""
