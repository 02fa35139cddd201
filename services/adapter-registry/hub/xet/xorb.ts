// A xorb: chunks of files one after the other, each with a header of 8 bytes and perhaps compressed (Xet protocol
// specification, "Xorb formation & serialization format").
import { badRequest } from "../http.ts";
import { lz4Decode } from "./lz4.ts";

/** The format's limit is 64 MiB; some room for the index that clients may append. */
export const xorbBytesMax = 66 << 20;
const headerBytes = 8;
const chunkBytesMax = 1 << 20;

const schemes = { none: 0, lz4: 1, byteGroupingLz4: 2 } as const;

interface Chunk {
  /** Of the compressed bytes. */
  start: number;
  end: number;
  scheme: number;
  /** Length when decoded. */
  length: number;
}

export class Xorb {
  readonly #bytes: Buffer;
  readonly #chunks: Chunk[];

  /** @throws INVALID_ARGUMENT for bytes that are no xorb. */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#chunks = chunksOf(bytes);
  }

  /** The bytes of chunks `start` to before `end`. */
  *read(start: number, end: number): Generator<Buffer> {
    if (start >= end || end > this.#chunks.length) {
      throw badRequest(`a term: expected chunks among ${this.#chunks.length}, got ${start} to ${end}`);
    }
    for (const chunk of this.#chunks.slice(start, end)) yield this.#decode(chunk);
  }

  #decode({ start, end, scheme, length }: Chunk): Buffer {
    const bytes = this.#bytes.subarray(start, end);
    if (scheme === schemes.none) return bytes;
    const decoded = lz4Decode(bytes, length);
    return scheme === schemes.lz4 ? decoded : ungrouped(decoded);
  }
}

function chunksOf(bytes: Buffer): Chunk[] {
  const chunks: Chunk[] = [];
  // The index that may follow the chunks begins with a letter, a chunk with its version, 0.
  for (let at = 0; at < bytes.length && bytes[at] === 0; ) {
    if (at + headerBytes > bytes.length) throw badRequest("a xorb: a chunk's header is cut");
    const start = at + headerBytes;
    const end = start + bytes.readUIntLE(at + 1, 3);
    const scheme = bytes.readUInt8(at + 4);
    const length = bytes.readUIntLE(at + 5, 3);
    if (end > bytes.length) throw badRequest("a xorb: a chunk is cut");
    if (length > chunkBytesMax)
      throw badRequest(`a xorb: expected chunks of at most ${chunkBytesMax} bytes, got ${length}`);
    if (scheme > schemes.byteGroupingLz4) throw badRequest(`a xorb: expected compression 0, 1 or 2, got ${scheme}`);
    if (scheme === schemes.none && end - start !== length) throw badRequest("a xorb: a stored chunk of another length");
    chunks.push({ start, end, scheme, length });
    at = end;
  }
  if (chunks.length === 0) throw badRequest("a xorb: expected chunks, got none");
  return chunks;
}

/** Bytes that were ordered by their place within groups of four, back in their own order. */
function ungrouped(grouped: Buffer): Buffer {
  const out = Buffer.allocUnsafe(grouped.length);
  let from = 0;
  for (let place = 0; place < 4; place++) {
    for (let to = place; to < out.length; to += 4) out[to] = grouped[from++] as number;
  }
  return out;
}
