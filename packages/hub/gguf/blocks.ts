// Rows of numbers as ggml's blocks of 32 (ggml-quants.c, quantize_row_q4_0_ref and quantize_row_q8_0_ref): the same
// bytes.
import { NibbleError } from "#packages/errors";

const block = 32;
function checked(values: Float32Array): number {
  if (values.length % block === 0) return values.length / block;
  const message = `expected a multiple of ${block} numbers, got ${values.length}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "gguf_blocks" });
}

/** C's roundf: halves away from zero. */
const roundHalfAway = (x: number) => Math.sign(x) * Math.floor(Math.abs(x) + 0.5);

/** A block: the scale as a half, then 32 signed bytes. */
export function encodeQ80(values: Float32Array): Uint8Array {
  const blocks = checked(values);
  const out = new DataView(new ArrayBuffer(blocks * 34));
  for (let b = 0, at = 0; b < blocks; b++, at += 34) {
    const row = values.subarray(b * block, (b + 1) * block);
    let top = 0;
    for (const x of row) top = Math.max(top, Math.abs(x));
    const d = Math.fround(top / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    out.setFloat16(at, d, true);
    for (let i = 0; i < block; i++) out.setInt8(at + 2 + i, roundHalfAway(Math.fround(row[i]! * inverse)));
  }
  return new Uint8Array(out.buffer);
}

/** A block: the scale as a half, then 16 bytes; byte i has element i below and element i + 16 above. */
export function encodeQ40(values: Float32Array): Uint8Array {
  const blocks = checked(values);
  const out = new DataView(new ArrayBuffer(blocks * 18));
  for (let b = 0, at = 0; b < blocks; b++, at += 18) {
    const row = values.subarray(b * block, (b + 1) * block);
    let top = 0;
    for (const x of row) if (Math.abs(x) > Math.abs(top)) top = x;
    const d = Math.fround(top / -8);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    out.setFloat16(at, d, true);
    const code = (x: number) => Math.min(15, Math.trunc(Math.fround(Math.fround(x * inverse) + 8.5)));
    for (let i = 0; i < block / 2; i++) out.setUint8(at + 2 + i, code(row[i]!) | (code(row[i + block / 2]!) << 4));
  }
  return new Uint8Array(out.buffer);
}
