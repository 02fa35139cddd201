// Reads a stored file in pieces, when the reader has taken those before. A file that rotted on the disk is never handed
// out whole: the last piece waits until the sha256 is known to be right.
import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { NibbleError } from "#packages/errors";
import type { FileRecord } from "./store.ts";

/** The gRPC contract allows 1 MiB; half of it keeps two pieces in the flow-control window. */
const pieceBytes = 512 << 10;

/** The bytes from `start` to before `end`, at least one piece; only a read of the whole file is checked. */
export async function* readBlob(
  handle: FileHandle,
  file: FileRecord,
  { start, end }: { start: number; end: number },
  op: string,
): AsyncGenerator<Buffer> {
  const hash = start === 0 && end === file.sizeBytes ? createHash("sha256") : undefined;
  let offset = start;
  do {
    const buffer = Buffer.allocUnsafe(Math.min(pieceBytes, end - offset));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, offset);
    if (bytesRead === 0 && buffer.length > 0) {
      throw damaged(file, `expected ${file.sizeBytes} bytes, got ${offset}`, op);
    }
    const data = buffer.subarray(0, bytesRead);
    hash?.update(data);
    offset += bytesRead;
    if (offset === end) checkHash(file, hash?.digest("hex") ?? file.sha256, op);
    yield data;
  } while (offset < end);
}

function checkHash(file: FileRecord, sha256: string, op: string): void {
  if (sha256 !== file.sha256) throw damaged(file, `sha256: expected ${file.sha256}, got ${sha256}`, op);
}

export function damaged(file: FileRecord, what: string, op: string): NibbleError {
  const message = `${file.path}: the registry's copy is damaged: ${what}`;
  return new NibbleError(message, { code: "DATA_LOSS", op, details: { path: file.path, sha256: file.sha256 } });
}
