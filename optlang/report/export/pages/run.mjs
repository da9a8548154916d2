// Runs the exported model in a web page: `import { load, run } from "./run.mjs"`.
//
// The library is onnxruntime-web «version» (npm). Of its folder dist a site needs, in a folder ort/ beside this file:
// «needed».
// Threads need a page that is isolated: serve.py shows the two headers that make it so. Without them there is one.

import * as ort from "./ort/«library»";

const here = (name) => new URL(name, import.meta.url).href;
const MODEL = «model»;
const BESIDE = «beside»;
// Samples a call, as it was measured: an answer may depend on the other samples of its call. null: all at once.
const BATCH = «samples»;

ort.env.wasm.wasmPaths = here("ort/");
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? «threads» : 1;

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, bool: Uint8Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
  float16: globalThis.Float16Array ?? Uint16Array,
};

/** The session that runs the model. */
export function load() {
  return ort.InferenceSession.create(here(MODEL), {
    executionProviders: [«provider»],
    externalData: BESIDE.map((path) => ({ path, data: here(path) })),
  });
}

/** Outputs by name, from inputs by name; each is { type, dims, data }, `data` being a typed array. */
export async function run(session, inputs) {
  const feeds = {};
  for (const [name, { type, dims, data }] of Object.entries(inputs)) feeds[name] = new ort.Tensor(type, data, dims);
  const answers = await session.run(feeds);
  const found = {};
  for (const [name, tensor] of Object.entries(answers)) {
    found[name] = { type: tensor.type, dims: [...tensor.dims], data: await tensor.getData() };
  }
  return found;
}

/** Outputs by name to any number of samples, in calls of BATCH; the first axis of every array is the sample. */
export async function answers(session, inputs) {
  const count = Object.values(inputs)[0].dims[0];
  const step = BATCH ?? count;
  const pieces = [];
  for (let start = 0; start < count; start += step) {
    const part = {};
    for (const [name, { type, dims, data }] of Object.entries(inputs)) {
      const size = data.length / dims[0], most = Math.min(step, count - start);
      part[name] = { type, dims: [most, ...dims.slice(1)], data: data.slice(start * size, (start + most) * size) };
    }
    pieces.push(await run(session, part));
  }
  const found = {};
  for (const [name, { type, dims, data }] of Object.entries(pieces[0])) {
    const whole = new data.constructor(pieces.reduce((sum, piece) => sum + piece[name].data.length, 0));
    let filled = 0;
    for (const piece of pieces) {
      whole.set(piece[name].data, filled);
      filled += piece[name].data.length;
    }
    found[name] = { type, dims: [count, ...dims.slice(1)], data: whole };
  }
  return found;
}

/** Arrays by name as `examples.json` holds them: their bytes in base64. */
export function decoded(arrays) {
  const found = {};
  for (const [name, { type, dims, base64 }] of Object.entries(arrays)) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    found[name] = { type, dims, data: new ARRAYS[type](bytes.buffer) };
  }
  return found;
}
