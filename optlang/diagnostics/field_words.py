"""Words of the field that optlang calls otherwise, with what it calls them: the one table of aliases.

A word here is never taken for a misspelling. Each answer is written as it stands in a study; tests put it there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Words: TypeAlias = "Mapping[str, tuple[str, ...]]"
"""What each word may mean, most likely first. Words are written small, without `_`, `-` and `.`."""


def _table(lines: str) -> Words:
    """`word word = answer | answer` on each line."""
    found: dict[str, tuple[str, ...]] = {}
    for line in lines.strip().splitlines():
        words, _, answers = line.partition(" = ")
        fresh = dict.fromkeys(words.split(), tuple(answer.strip() for answer in answers.split("|")))
        assert not found.keys() & fresh.keys(), found.keys() & fresh.keys()
        found |= fresh
    return found


STEPS = _table("""
    int8 i8 w8a8 quantize quantise quantized quantization quantisation quantizer quant = static | dynamic | qat
    ptq posttrainingquantization staticquantization quantizestatic staticint8 = static | dynamic
    dynamicquantization quantizedynamic dynamicint8 = dynamic
    qataware quantizationawaretraining quantizeaware = qat
    int4 i4 w4 w4a16 gptq awq nf4 fourbit = weight_only { bits = 4 }
    w8 w8a16 weightonlyquantization weightonlyint8 = weight_only
    mixedprecision mixedprecisionquantization = mixed | half
    smoothquant = smooth
    crosslayerequalization cle = equalize
    fp16 float16 f16 halfprecision tofloat16 = half
    bf16 bfloat16 cast autocast = half { dtype = bfloat16 } | half
    prune pruner pruning structured structuredpruning filterpruning channelpruning prunechannels = channels | magnitude
    unstructured unstructuredpruning sparse sparsify sparsity l1unstructured magnitudepruning weightpruning = magnitude
    gradualpruning gmp agp = iterative
    nm semistructured twofour sparse24 semisparse = two_four
    headpruning pruneheads attentionpruning = heads
    layerdrop layerdropping droplayers layerpruning depthpruning blockpruning blocks shortgpt = layers
    lotteryticket lth imp = lottery
    kd distil distillation knowledgedistillation teacherstudent student teacher = distill
    retrain recover recovery fit training finetuning tune = finetune | train
    fuse fusing fusion bnfusion fusebn fusebatchnorm foldbn foldbatchnorm batchnormfolding = fold
    constantfolding foldconstants constfold = constants
    nhwc memoryformat = channels_last
""")
"""Names for techniques and pipelines, as steps."""

RUNTIMES = _table("""
    onnx ort onnxrt onnxruntimecpu onnxruntimegpu = onnxruntime
    trt tensorrtrtx rtx torchtensorrt nvidia = tensorrt
    torch pytorch python eagermode native = eager
    compile compiled torchcompile dynamo torchdynamo triton = inductor
    aoti aot aotcompile = aotinductor
    jit torchjit script scripted trace traced = torchscript
    tflite tensorflowlite tf tensorflow xnnpack = litert | executorch
    coremltools mlmodel mlpackage mlprogram apple ane = coreml
    pte = executorch
    ov openvinoir ir intel = openvino
    wasm webgpu web browser ortweb onnxruntimeweb onnxweb = ort_web
""")
"""Names for runtimes."""

METRICS = _table("""
    acc top1 top1accuracy valacc valaccuracy = accuracy
    speed time runtime inferencetime inference responsetime delay ms p50 median = latency
    p90 = latency.p90
    p95 = latency.p95
    p99 = latency.p99
    mean meanlatency avglatency latencyavg = latency.mean
    fps qps ips samplespersecond = throughput
    flops gflops flop ops mac gmacs madds multadds = macs
    params nparams numparams weights parametercount = parameters
    filesize modelsize disk disksize storage bytes footprint = size
    zippedsize gzip zip compressedsize = size.compressed
    zeros = sparsity
    drop accuracydrop accdrop accuracyloss accloss degradation = accuracy >= baseline.accuracy - 1%
    speedup faster = latency <= 0.5 * baseline.latency
    compression compressionratio compressionrate smaller = size <= 0.5 * baseline.size
""")
"""Names for metrics."""

SAMPLERS = _table("""
    bayes bayesian bayesianoptimization bo optuna hyperopt = tpe | gp
    gaussian gaussianprocess gpsampler botorch = gp
    ga genetic evolution evolutionary nsga nsgaii = nsga2
    nsgaiii = nsga3
    cma cmaes cmaessampler = tpe | gp
    sobol halton quasirandom lhs latinhypercube = qmc
    gridsearch exhaustive brute bruteforce all = grid
    randomsearch uniform = random
""")
"""Names for samplers."""

SETTINGS = _table("""
    learningrate stepsize = lr
    nepochs numepochs passes = epochs
    batchsize bs minibatch = batch
    wd decay l2 = weight_decay
    optim opt solver = optimizer
    scheduler lrscheduler lrschedule = schedule
    warmupratio warmupsteps = warmup
    clipnorm gradclip maxgradnorm = clip
    earlystopping earlystop = patience
    nsamples numsamples calibrationsamples numcalibration calibsamples = samples
    calibration calibrationmethod calibrate observer method = calibrator
    perchannel perchannelquantization = granularity
    exclude excluded skip ignore ignored ignoredlayers excludelayers nodestoexclude = keep
    include layers modules targets nodestoquantize = only
    amount rate fraction share pruningratio sparsityratio targetsparsity density = ratio | sparsity | share
    criterion score importancemeasure = importance
    nbits numbits bit bitwidth weightbits = bits
    groupsize blocksize = group
    nworkers numworkers njobs parallel parallelism concurrency nconcurrent = workers
    ntrials numtrials maxtrials iterations = trials
    timelimit maxtime budget maxseconds = timeout
    randomseed randomstate = seed
    nthreads numthreads cores numcores = threads
    temp tau = temperature
    hidden hiddensize dim channels = width
    precision type = dtype
""")
"""Names for settings, where the thing declares one of them."""

VALUES = _table("""
    fp16 f16 half = float16
    bf16 = bfloat16
    kl kld kldivergence histogram = entropy
    max absmax minandmax = minmax
    l2norm meansquarederror = mse
    cosineannealing cosinelr = cosine
    onecyclelr 1cycle = one_cycle
    momentumsgd = sgd
    perchannel = channel
    pertensor = tensor
    hessian = fisher
    gradient grad = taylor
    bn batchnorm slimming = bn_scale
    local perlayer = layer
    overall = global
""")
"""Names for values, where the parameter allows one of them."""

UNITS = _table("""
    sec secs second seconds = s
    msec msecs millis millisecond milliseconds = ms
    usec usecs micros microsecond microseconds = us
    nsec nsecs nanos nanosecond nanoseconds = ns
    m mins minute minutes = min
    hr hrs hour hours = h
    day days = d
    byte bytes = B
    k kbyte kbytes kilobyte kilobytes = kB
    mbyte mbytes megabyte megabytes = MB
    g gbyte gbytes gigabyte gigabytes = GB
    pct percent = %
""")
"""Names for units."""

NOTES: Mapping[str, str] = dict.fromkeys(
    ("fp32", "float32", "f32", "identity", "nothing", "noop", "skip", "baseline"),
    "the model is in float32 as it is: leave the step out; in a choice `none` does nothing",
)
"""Names for steps that do nothing, with what to write."""

OTHERS = frozenset({
    "nadam", "radam", "adagrad", "adadelta", "rmsprop", "lion", "lamb", "lbfgs", "rmse", "mape", "auc", "auroc",
    "roc", "map", "miou", "iou", "f1", "recall", "bleu", "rouge", "wer", "cer", "psnr", "ssim", "perplexity",
    "ppl", "float64", "fp64", "int16", "uint8", "int2", "fp8", "float8", "mxfp4", "energy", "power", "cost",
    "carbon",
})
"""Words that mean something which optlang does not have: nothing that looks alike was meant."""

TABLES: tuple[Words, ...] = (STEPS, RUNTIMES, METRICS, SAMPLERS, SETTINGS, VALUES, UNITS)


def plain(word: str) -> str:
    """A word as the tables have it."""
    return re.sub(r"[._-]", "", word.lower())


def meant(word: str, words: Words, among: Iterable[str] | None = None) -> tuple[str, ...]:
    """What the field means by `word`; of that only what is `among` the names that there are, if these are given."""
    # `torch.compile` is known by its whole, `nn.prune` by its last part.
    found = words.get(plain(word)) or words.get(plain(word.rpartition(".")[2]), ())
    if among is None:
        return found
    known = set(among)
    return tuple(name for name in found if name in known)


def is_known(word: str) -> bool:
    """Whether the word means something in the field, so that it is no misspelling of another."""
    return is_other(word) or plain(word) in NOTES or any(plain(word) in words for words in TABLES)


def is_other(word: str) -> bool:
    """Whether it means something that optlang does not have."""
    return plain(word) in OTHERS
