// The bytes of a file, in pieces, decompressed where its first bytes say that it is gzip or zstd. Memory is that of a
// few pieces, whatever the file's size.
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { pipeline } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { NibbleError } from "#packages/errors";
import { fileError, op } from "../place.ts";

const magics = [
  { name: "gzip", bytes: Buffer.from([0x1f, 0x8b]), decompress: createGunzip },
  { name: "zstd", bytes: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), decompress: createZstdDecompress },
];

/** The first `count` bytes of a file as it lies on disk, or as many as there are. */
export async function headOf(file: string, count: number): Promise<Buffer> {
  try {
    await using handle = await open(file);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(count), 0, count, 0);
    return buffer.subarray(0, bytesRead);
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  }
}

/** @throws INVALID_ARGUMENT with the file's name where compressed data are damaged or end too early. */
export async function* readBytes(file: string): AsyncGenerator<Buffer> {
  const head = await headOf(file, 4);
  const packed = magics.find(({ bytes }) => head.subarray(0, bytes.length).equals(bytes));
  const source = createReadStream(file);
  const stream = packed ? pipeline(source, packed.decompress(), () => {}) : source;
  try {
    yield* stream as AsyncIterable<Buffer>;
  } catch (thrown) {
    const error = NibbleError.from(thrown, op);
    if (!packed || error.code !== "INTERNAL") throw error;
    throw fileError(file, `expected whole ${packed.name} data: ${(thrown as Error).message}`, thrown);
  } finally {
    source.destroy();
  }
}
