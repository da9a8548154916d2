// Runs one model with onnxruntime-web inside a page, for optlang/runtimes/ort_web/build.py, which opens the page and calls
// what `bench` has. Arrays come from the page's own server and go back to it as raw bytes.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, bool: Uint8Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
  float16: globalThis.Float16Array ?? Uint16Array,
};
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|basic render|warp/i;
// A measured span is so many steps of the clock: each figure is then right to half a percent.
const STEPS = 200;
// Browsers compile again what runs often, while it runs: times fall for so many milliseconds.
const WARMING = 500;

let ort, session, step;
let warm = false;
const batches = new Map();
const answers = new Map();

/** The WebGPU adapter's name, and whether it calculates on the CPU; null where the browser has none. */
async function adapter() {
  const found = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!found) return null;
  const info = found.info;
  const words = [info.vendor, info.architecture, info.device, info.description].filter(Boolean);
  const name = [...new Set(words)].join(" ") || "unnamed";
  return { name, software: Boolean(info.isFallbackAdapter ?? found.isFallbackAdapter) || SOFTWARE.test(name) };
}

/** The smallest step that the clock makes, in milliseconds. */
function resolution() {
  let least = Infinity;
  for (let index = 0; index < 20; index++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    least = Math.min(least, now - start);
  }
  return least;
}

/** Load the library and the model; milliseconds are counted from where the page's own loading began. */
async function open(options) {
  if (!crossOriginIsolated) throw new Error("the page is not isolated, so it has neither threads nor fine clocks");
  ort = await import(options.library);
  ort.env.wasm.wasmPaths = options.folder;
  ort.env.wasm.numThreads = options.threads;
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(options.model, {
    executionProviders: [options.provider],
    externalData: options.beside.map(({ path, url }) => ({ path, data: url })),
    logSeverityLevel: 3,
  });
  const loaded = performance.now();
  step = resolution();
  return { loaded, step, inputs: session.inputNames, threads: ort.env.wasm.numThreads };
}

/** Keep a batch under `id`; batches that nobody asks for any more are let go. */
async function prepare(id, inputs, gone) {
  for (const old of gone) {
    batches.delete(old);
    answers.delete(old);
  }
  const feeds = {};
  for (const { name, type, dims, url } of inputs) {
    const bytes = await (await fetch(url)).arrayBuffer();
    feeds[name] = new ort.Tensor(type, new ARRAYS[type](bytes), dims);
  }
  batches.set(id, feeds);
}

async function run(id) {
  answers.set(id, await session.run(batches.get(id)));
}

/** Send the answer to the server, output by output, and say what they are. */
async function collect(id, urls) {
  const found = answers.get(id);
  const told = [];
  for (const [name, url] of Object.entries(urls)) {
    const tensor = found[name];
    const data = await tensor.getData();
    if (!ArrayBuffer.isView(data)) throw new Error(`the output ${name} holds ${tensor.type}, which is no number`);
    await fetch(url, { method: "POST", body: new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() });
    told.push({ name, type: tensor.type, dims: tensor.dims });
  }
  return told;
}

/**
 * The nanoseconds of each call. Calls that are short beside the clock's steps are timed in groups, as many as make 200
 * steps, and each of them is said to have taken its share.
 */
async function durations(id, seconds, calls, skip) {
  const feeds = batches.get(id);
  let began = performance.now();
  while (!warm) {
    await session.run(feeds);
    warm = performance.now() - began >= WARMING;
  }
  for (let index = 0; index < skip; index++) await session.run(feeds);
  let group = 0;
  began = performance.now();
  do {
    await session.run(feeds);
    group++;
  } while (performance.now() - began < STEPS * step);
  const found = [];
  const start = performance.now();
  let now = start;
  while (now - start < seconds * 1000 || found.length < calls) {
    began = performance.now();
    for (let index = 0; index < group; index++) await session.run(feeds);
    now = performance.now();
    const each = Math.round(((now - began) * 1e6) / group);
    for (let index = 0; index < group; index++) found.push(each);
  }
  return found;
}

globalThis.bench = { adapter, prepare, run, collect, durations };
const options = JSON.parse(document.getElementById("options").textContent);
// Not awaited here: whoever opened the page asks for it, and for what went wrong.
globalThis.bench.opened = options.model ? open(options) : Promise.resolve(null);
globalThis.bench.opened.catch(() => {});
