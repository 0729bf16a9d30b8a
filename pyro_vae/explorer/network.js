"use strict";
// Runs a list of operations that pyro_vae.explorer.graph wrote: numbers are held in 64 bits, row by row.

function decodeBytes(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

function halfToNumber(h) {
  const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function unpack(packed) {
  const buffer = decodeBytes(packed.data);
  switch (packed.type) {
    case "f2": return Float32Array.from(new Uint16Array(buffer), halfToNumber);
    case "f4": return new Float32Array(buffer);
    case "f8": return new Float64Array(buffer);
    case "i4": return new Int32Array(buffer);
    case "u1": return new Uint8Array(buffer);
    default: throw new Error("unknown type " + packed.type);
  }
}

const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

function erf(x) {
  // The series near 0, the continued fraction of erfc beyond: both to the last digits of 64 bits.
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = x, sum = x;
    for (let n = 1; n < 60; n++) { term *= -x * x / n; sum += term / (2 * n + 1); }
    return 2 / Math.sqrt(Math.PI) * sum;
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

function lgamma(x) {
  if (x < 0.5) return Math.log(Math.PI / Math.abs(Math.sin(Math.PI * x))) - lgamma(1 - x);
  let shift = 0;
  while (x < 10) { shift -= Math.log(x); x += 1; }
  const s = 1 / (x * x);
  const series = (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s / 1680))) / x;
  return shift + (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series;
}

function roundEven(x) {
  const floor = Math.floor(x), rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

const OF_ONE = {
  neg: (a) => -a, exp: Math.exp, expm1: Math.expm1, log: Math.log, log1p: Math.log1p, sqrt: Math.sqrt,
  rsqrt: (a) => 1 / Math.sqrt(a), reciprocal: (a) => 1 / a, sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  tanh: Math.tanh, relu: (a) => (a < 0 ? 0 : a), abs: Math.abs, sign: Math.sign, floor: Math.floor,
  ceil: Math.ceil, trunc: Math.trunc, round: roundEven, sin: Math.sin, cos: Math.cos, erf, lgamma,
  isnan: (a) => +(a !== a), not: (a) => +!a,
};

const OF_TWO = {
  add: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b, div: (a, b) => a / b, pow: Math.pow,
  maximum: Math.max, minimum: Math.min, eq: (a, b) => +(a === b), ne: (a, b) => +(a !== b),
  lt: (a, b) => +(a < b), le: (a, b) => +(a <= b), gt: (a, b) => +(a > b), ge: (a, b) => +(a >= b),
  and: (a, b) => +(a && b ? 1 : 0), or: (a, b) => +(a || b ? 1 : 0),
};

const OVER = {
  sum: [0, (a, b) => a + b], mean: [0, (a, b) => a + b], prod: [1, (a, b) => a * b],
  max: [-Infinity, Math.max], min: [Infinity, Math.min],
};

// The place in a source of `shape` of each number of a result of shape `target`; null where they are the same.
function broadcastPlaces(shape, target) {
  const size = product(target);
  if (product(shape) === size) return null;
  const steps = new Array(target.length).fill(0);
  for (let d = shape.length - 1, step = 1; d >= 0; d--) {
    if (shape[d] !== 1) steps[d + target.length - shape.length] = step;
    step *= shape[d];
  }
  return stridedPlaces(target, steps, 0);
}

function stridedPlaces(shape, steps, offset) {
  const size = product(shape), places = new Int32Array(size), at = new Array(shape.length).fill(0);
  let place = offset;
  for (let i = 0; i < size; i++) {
    places[i] = place;
    for (let d = shape.length - 1; d >= 0; d--) {
      at[d]++; place += steps[d];
      if (at[d] < shape[d]) break;
      place -= steps[d] * shape[d]; at[d] = 0;
    }
  }
  return places;
}

// The place in the result of each number of a source that is reduced over `dims`.
function reducedPlaces(shape, dims) {
  const steps = new Array(shape.length).fill(0);
  for (let d = shape.length - 1, step = 1; d >= 0; d--) {
    if (!dims.includes(d)) { steps[d] = step; step *= shape[d]; }
  }
  return stridedPlaces(shape, steps, 0);
}

function makeOfOne(f, a, out) {
  return () => { for (let i = 0; i < out.length; i++) out[i] = f(a[i]); };
}

function makeOfTwo(f, a, b, out, pa, pb) {
  if (!pa && !pb) return () => { for (let i = 0; i < out.length; i++) out[i] = f(a[i], b[i]); };
  if (!pa && b.length === 1) return () => { const v = b[0]; for (let i = 0; i < out.length; i++) out[i] = f(a[i], v); };
  return () => {
    for (let i = 0; i < out.length; i++) out[i] = f(a[pa ? pa[i] : i], b[pb ? pb[i] : i]);
  };
}

function makeMatmul(a, b, out, shapeA, shapeB) {
  const n = shapeA[shapeA.length - 2], k = shapeA[shapeA.length - 1], m = shapeB[shapeB.length - 1];
  const batch = product(shapeA.slice(0, -2));
  return () => {
    out.fill(0);
    for (let g = 0; g < batch; g++) {
      for (let i = 0; i < n; i++) {
        const row = (g * n + i) * m;
        for (let j = 0; j < k; j++) {
          const v = a[(g * n + i) * k + j], from = (g * k + j) * m;
          if (v !== 0) for (let l = 0; l < m; l++) out[row + l] += v * b[from + l];
        }
      }
    }
  };
}

// A convolution, or with `turned` its transpose: each number of the wide side meets those of the kernel's reach.
function makeConv(x, w, out, shapeX, shapeW, shapeOut, how, turned) {
  const flat = shapeX.length === 3;
  const pair = (values, one) => (flat ? [one, values[0]] : values);
  const [sy, sx] = pair(how.stride, 1), [py, px] = pair(how.padding, 0), [dy, dx] = pair(how.dilation, 1);
  const size = (shape) => (flat ? [1, shape[2]] : [shape[2], shape[3]]);
  const [hi, wi] = size(shapeX), [ho, wo] = size(shapeOut), [kh, kw] = size(shapeW);
  const ci = shapeX[1], co = shapeOut[1], groups = how.groups, batch = shapeX[0];
  // The small side is read by a convolution's output, and by a transposed one's input.
  const [hs, ws, hl, wl] = turned ? [hi, wi, ho, wo] : [ho, wo, hi, wi];
  const cig = ci / groups, cog = co / groups;
  return () => {
    out.fill(0);
    for (let n = 0; n < batch; n++) for (let o = 0; o < co; o++) {
      const g = Math.floor(o / cog);
      for (let c = 0; c < cig; c++) {
        const input = g * cig + c;
        const kernel = (turned ? input * cog + (o - g * cog) : o * cig + c) * kh * kw;
        const ox = (n * ci + input) * hi * wi, oo = (n * co + o) * ho * wo;
        for (let ky = 0; ky < kh; ky++) for (let kx = 0; kx < kw; kx++) {
          const v = w[kernel + ky * kw + kx];
          if (v === 0) continue;
          const shift = kx * dx - px;
          const first = Math.max(0, Math.ceil(-shift / sx)), last = Math.min(ws - 1, Math.floor((wl - 1 - shift) / sx));
          for (let y = 0; y < hs; y++) {
            const large = y * sy + ky * dy - py;
            if (large < 0 || large >= hl) continue;
            if (turned) {
              let to = oo + large * wo + first * sx + shift;
              const from = ox + y * wi;
              for (let i = first; i <= last; i++, to += sx) out[to] += v * x[from + i];
            } else {
              let from = ox + large * wi + first * sx + shift;
              const to = oo + y * wo;
              for (let i = first; i <= last; i++, from += sx) out[to + i] += v * x[from];
            }
          }
        }
      }
    }
  };
}

function makeOver(name, a, out, shape, dims) {
  const places = reducedPlaces(shape, dims), [start, f] = OVER[name];
  const count = name === "mean" ? product(dims.map((d) => shape[d])) : 1;
  return () => {
    out.fill(start);
    for (let i = 0; i < a.length; i++) out[places[i]] = f(out[places[i]], a[i]);
    if (count !== 1) for (let i = 0; i < out.length; i++) out[i] /= count;
  };
}

function makeCumsum(a, out, shape, dim) {
  const inner = product(shape.slice(dim + 1)), length = shape[dim] || 1;
  return () => {
    for (let i = 0; i < a.length; i++) {
      const first = Math.floor(i / inner) % length === 0;
      out[i] = first ? a[i] : out[i - inner] + a[i];
    }
  };
}

function makeArgmax(a, out, shape, dims) {
  const places = reducedPlaces(shape, dims), inner = product(shape.slice(dims[0] + 1)), length = shape[dims[0]];
  const best = new Float64Array(out.length);
  return () => {
    best.fill(-Infinity); out.fill(0);
    for (let i = 0; i < a.length; i++) {
      const p = places[i];
      if (a[i] > best[p]) { best[p] = a[i]; out[p] = Math.floor(i / inner) % length; }
    }
  };
}

function makeTake(sources, out, operation, shape) {
  let places = null;
  if (operation.places !== undefined) places = unpack({ type: "i4", data: operation.places });
  else if (operation.steps !== undefined) places = stridedPlaces(shape, operation.steps, operation.offset);
  const size = sources.reduce((sum, s) => sum + s.length, 0);
  const all = sources.length === 1 ? sources[0] : places ? new Float64Array(size) : out;
  return () => {
    if (sources.length > 1) {
      let start = 0;
      for (const source of sources) { all.set(source, start); start += source.length; }
    }
    if (places) for (let i = 0; i < out.length; i++) out[i] = all[places[i]];
    else if (all !== out) out.set(all);
  };
}

// A graph made ready: `run(inputs)` takes an array for each input and returns one for each output.
function compileNetwork(graph) {
  const shapes = graph.values.map((v) => v.shape);
  const held = graph.values.map((v) => (v.data === undefined ? new Float64Array(product(v.shape)) : unpack(v)));
  const steps = graph.operations.map((operation) => {
    const of = operation.in, out = held[operation.out], shape = shapes[operation.out], name = operation.op;
    const [a, b, c] = of.map((i) => held[i]);
    const places = of.map((i) => broadcastPlaces(shapes[i], shape));
    if (name in OF_ONE) return makeOfOne(OF_ONE[name], a, out);
    if (name in OF_TWO) return makeOfTwo(OF_TWO[name], a, b, out, places[0], places[1]);
    if (name in OVER) return makeOver(name, a, out, shapes[of[0]], operation.dims);
    switch (name) {
      case "where": {
        const at = (values, p) => (p ? (i) => values[p[i]] : (i) => values[i]);
        const [condition, yes, no] = [at(a, places[0]), at(b, places[1]), at(c, places[2])];
        return () => { for (let i = 0; i < out.length; i++) out[i] = condition(i) ? yes(i) : no(i); };
      }
      case "matmul": return makeMatmul(a, b, out, shapes[of[0]], shapes[of[1]]);
      case "conv": return makeConv(a, b, out, shapes[of[0]], shapes[of[1]], shape, operation, false);
      case "conv_transposed": return makeConv(a, b, out, shapes[of[0]], shapes[of[1]], shape, operation, true);
      case "cumsum": return makeCumsum(a, out, shapes[of[0]], operation.dim);
      case "argmax": return makeArgmax(a, out, shapes[of[0]], operation.dims);
      case "take": return makeTake(of.map((i) => held[i]), out, operation, shape);
      default: throw new Error("unknown operation " + name);
    }
  });
  return {
    run(inputs) {
      graph.inputs.forEach((value, i) => held[value].set(inputs[i]));
      for (const step of steps) step();
      return graph.outputs.map((value) => held[value]);
    },
  };
}

if (typeof module !== "undefined") module.exports = { compileNetwork, unpack };
