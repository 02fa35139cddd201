// Decodes an LZ4 frame of known length (LZ4 frame format 1.6, block format). Node's zlib has no LZ4. Checksums are
// skipped: what is decoded here is checked by the sha256 of the whole file.
import { badRequest } from "../http.ts";

const magic = 0x184d2204;
const endMark = 0;
const storedFlag = 0x80000000;

/** @throws INVALID_ARGUMENT unless the frame decodes to exactly `length` bytes. */
export function lz4Decode(frame: Buffer, length: number): Buffer {
  const out = Buffer.allocUnsafe(length);
  try {
    const written = decodeFrame(frame, out);
    if (written === length) return out;
    throw new RangeError(`expected ${length} bytes, got ${written}`);
  } catch (thrown) {
    throw badRequest(`an LZ4 frame: ${(thrown as Error).message}`);
  }
}

function decodeFrame(frame: Buffer, out: Buffer): number {
  if (frame.readUInt32LE(0) !== magic) throw new RangeError("expected its magic number");
  const flags = frame.readUInt8(4);
  if (flags >> 6 !== 1) throw new RangeError(`expected version 1, got ${flags >> 6}`);
  const hasBlockChecksum = (flags & 0x10) !== 0;
  const hasSize = (flags & 0x08) !== 0;
  const hasDictionary = (flags & 0x01) !== 0;
  // Flags, block size, header checksum, and what the flags announce.
  let at = 4 + 3 + (hasSize ? 8 : 0) + (hasDictionary ? 4 : 0);
  let written = 0;
  for (;;) {
    const word = frame.readUInt32LE(at);
    at += 4;
    if (word === endMark) return written;
    const size = word % storedFlag;
    if (at + size > frame.length) throw new RangeError("a block ends after the frame");
    const block = frame.subarray(at, at + size);
    if (word >= storedFlag) written += copyInto(out, written, block);
    else written = decodeBlock(block, out, written);
    at += size + (hasBlockChecksum ? 4 : 0);
  }
}

function copyInto(out: Buffer, at: number, bytes: Buffer): number {
  if (at + bytes.length > out.length) throw new RangeError(`expected at most ${out.length} bytes, got more`);
  return bytes.copy(out, at);
}

/** Sequences of literals and of matches in what was written before; returns the new end. */
function decodeBlock(block: Buffer, out: Buffer, start: number): number {
  let at = 0;
  let end = start;
  /** A length of 15 in the token goes on in bytes until one that is not 255. */
  const lengthOf = (nibble: number) => {
    let length = nibble;
    for (let more = nibble === 15; more; ) {
      const byte = block.readUInt8(at++);
      length += byte;
      more = byte === 255;
    }
    return length;
  };
  while (at < block.length) {
    const token = block.readUInt8(at++);
    const literals = lengthOf(token >> 4);
    if (at + literals > block.length) throw new RangeError("literals end after the block");
    end += copyInto(out, end, block.subarray(at, at + literals));
    at += literals;
    // The last sequence is literals only.
    if (at === block.length) break;
    const distance = block.readUInt16LE(at);
    at += 2;
    const length = lengthOf(token & 15) + 4;
    copyMatch(out, end, distance, length);
    end += length;
  }
  return end;
}

function copyMatch(out: Buffer, end: number, distance: number, length: number): void {
  if (distance === 0 || distance > end)
    throw new RangeError(`a match: expected a distance up to ${end}, got ${distance}`);
  if (end + length > out.length) throw new RangeError(`expected at most ${out.length} bytes, got more`);
  // A match may reach into itself: then it repeats what it has written.
  if (distance >= length) out.copyWithin(end, end - distance, end - distance + length);
  else for (let i = 0; i < length; i++) out[end + i] = out[end + i - distance] as number;
}
