// Parquet files, a row group at a time. The format is hyparquet's; pages are decompressed by Node's zlib, LZ4 by
// hyparquet-compressors.
import { type FileHandle, open } from "node:fs/promises";
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import { type AsyncBuffer, type FileMetaData, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { decompressLz4, decompressLz4Raw } from "hyparquet-compressors";
import { NibbleError } from "#packages/errors";
import { fileError, op, rowError } from "../place.ts";
import type { FileRecord } from "./record.ts";

/** A row group is read whole; writers make them of some megabytes. */
const rowGroupBytesMax = 1 << 30;

const compressors = {
  GZIP: (bytes: Uint8Array) => gunzipSync(bytes),
  BROTLI: (bytes: Uint8Array) => brotliDecompressSync(bytes),
  ZSTD: (bytes: Uint8Array) => zstdDecompressSync(bytes),
  LZ4: decompressLz4,
  LZ4_RAW: decompressLz4Raw,
};

function bufferOf(handle: FileHandle, byteLength: number): AsyncBuffer {
  const slice = async (start: number, end = byteLength): Promise<ArrayBuffer> => {
    const bytes = new Uint8Array(Math.max(0, end - start));
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, start);
    if (bytesRead < bytes.length) throw new Error(`byte ${start + bytesRead} is beyond the end`);
    return bytes.buffer;
  };
  return { byteLength, slice };
}

/** Numbers instead of big integers, all the way down: ids and weights fit. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (ArrayBuffer.isView(value)) return Array.from(value as Int32Array);
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

async function metadataOf(file: string, buffer: AsyncBuffer): Promise<FileMetaData> {
  try {
    return await parquetMetadataAsync(buffer);
  } catch (cause) {
    throw fileError(file, `expected a whole Parquet file: ${(cause as Error).message}`, cause);
  }
}

/** A row group that cannot be read is said as such, and those after it are read all the same. */
export async function* readParquet(file: string): AsyncGenerator<FileRecord> {
  await using handle = await open(file).catch((thrown: unknown) => {
    throw NibbleError.from(thrown, op);
  });
  const buffer = bufferOf(handle, (await handle.stat()).size);
  const metadata = await metadataOf(file, buffer);
  let rowStart = 0;
  for (const [i, group] of metadata.row_groups.entries()) {
    const rowEnd = rowStart + Number(group.num_rows);
    const place = { file, line: rowStart + 1 };
    const wrong = (message: string, cause?: unknown): FileRecord => ({
      ...place,
      value: undefined,
      error: rowError(place, `${message} (row group ${i + 1}, rows ${rowStart + 1} to ${rowEnd})`, { cause }),
    });
    if (group.total_byte_size > rowGroupBytesMax) {
      yield wrong(`expected a row group of at most ${rowGroupBytesMax} bytes, got ${group.total_byte_size}`);
    } else {
      try {
        const rows = await parquetReadObjects({ file: buffer, metadata, compressors, rowStart, rowEnd });
        for (const [at, row] of rows.entries()) yield { file, line: rowStart + 1 + at, value: plain(row) };
      } catch (cause) {
        yield wrong(`expected a whole Parquet row group: ${(cause as Error).message}`, cause);
      }
    }
    rowStart = rowEnd;
  }
}
