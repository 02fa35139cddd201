// File work that runs beside calls, without holding up the event loop.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";

/** Chunks in which files travel; the contract allows at most 1 MiB. */
export const chunkBytes = 512 << 10;

/** The sha256 of a file's bytes in hex, and their number. */
export async function sha256OfFile(path: string): Promise<{ sha256: string; size: number }> {
  const hash = createHash("sha256");
  let size = 0;
  for await (const bytes of createReadStream(path, { highWaterMark: chunkBytes })) {
    hash.update(bytes);
    size += bytes.length;
  }
  return { sha256: hash.digest("hex"), size };
}
