// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers
// as a function of key and counter, so that any point of a run can be reached without what came before.

type Four = readonly [number, number, number, number];

/** High and low 32 bits of a 32 x 32 product, by halves: a double holds each partial sum exactly. */
function multiply(a: number, b: number): [high: number, low: number] {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = aHigh * bLow + Math.floor((aLow * bLow) / 0x10000);
  const other = aLow * bHigh + (middle % 0x10000);
  const high = aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(other / 0x10000);
  return [high, Math.imul(a, b) >>> 0];
}

/** Four unsigned 32-bit numbers. */
export function philox(counter: Four, key: readonly [number, number]): Four {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = multiply(0xd2511f53, c0);
    const [high1, low1] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** A permutation of 0..count-1 that `seed` and `stream` decide: each index gets a random 52-bit key, and the keys are sorted. */
export function permutation(count: number, seed: number, stream: number): Uint32Array {
  const low = seed >>> 0;
  const high = Math.floor(seed / 2 ** 32) >>> 0;
  const keys = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const [a, b] = philox([i, stream, 0, 0], [low, high]);
    keys[i] = a * 2 ** 20 + (b >>> 12);
  }
  return Uint32Array.from({ length: count }, (_, i) => i).sort((a, b) => keys[a]! - keys[b]! || a - b);
}
