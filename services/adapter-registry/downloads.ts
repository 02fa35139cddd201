// Reads a version's files in pieces, from any offset. Bytes are read when the client has taken those before.
import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { NibbleError } from "#packages/errors";
import type { BlobFolder } from "./blobs.ts";
import { notFound, versionName } from "./names.ts";
import type { FileRecord } from "./store.ts";
import type { Versions } from "./versions.ts";

const op = "download_file";
/** The contract allows 1 MiB; half of it keeps two pieces in the flow-control window. */
const pieceBytes = 512 << 10;

export interface Piece {
  offset: number;
  data: Uint8Array;
  /** In the first piece only. */
  file?: FileRecord;
}

export interface DownloadRequest {
  adapterId: string;
  number: number;
  path: string;
  offset: number;
}

export class Downloads {
  readonly #blobs: BlobFolder;
  readonly #versions: Versions;

  constructor(blobs: BlobFolder, versions: Versions) {
    this.#blobs = blobs;
    this.#versions = versions;
  }

  async *read(request: DownloadRequest): AsyncGenerator<Piece> {
    const file = await this.#find(request);
    if (request.offset > file.sizeBytes) {
      const message = `${file.path}: offset: expected at most ${file.sizeBytes}, got ${request.offset}`;
      throw new NibbleError(message, { code: "OUT_OF_RANGE", op, details: { path: file.path } });
    }
    const handle = await this.#open(request, file);
    try {
      yield* pieces(handle, file, request.offset);
    } finally {
      await handle.close();
    }
  }

  async #find({ adapterId, number, path }: DownloadRequest): Promise<FileRecord> {
    const version = await this.#versions.get(adapterId, number, op);
    const file = version.files.find((one) => one.path === path);
    if (file) return file;
    throw notFound(`${versionName(version)}: ${path}`, op);
  }

  async #open(request: DownloadRequest, file: FileRecord): Promise<FileHandle> {
    const handle = await this.#blobs.open(file.sha256);
    if (handle) return handle;
    // NOT_FOUND if the version was removed a moment ago.
    await this.#find(request);
    throw damaged(file, "its bytes are missing");
  }
}

async function* pieces(handle: FileHandle, file: FileRecord, from: number): AsyncGenerator<Piece> {
  const hash = from === 0 ? createHash("sha256") : undefined;
  let offset = from;
  do {
    const buffer = Buffer.allocUnsafe(Math.min(pieceBytes, file.sizeBytes - offset));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, offset);
    if (bytesRead === 0 && buffer.length > 0) throw damaged(file, `expected ${file.sizeBytes} bytes, got ${offset}`);
    const data = buffer.subarray(0, bytesRead);
    hash?.update(data);
    yield { offset, data, ...(offset === from ? { file } : {}) };
    offset += bytesRead;
  } while (offset < file.sizeBytes);
  const sha256 = hash?.digest("hex") ?? file.sha256;
  if (sha256 !== file.sha256) throw damaged(file, `sha256: expected ${file.sha256}, got ${sha256}`);
}

function damaged(file: FileRecord, what: string): NibbleError {
  const message = `${file.path}: the registry's copy is damaged: ${what}`;
  return new NibbleError(message, { code: "DATA_LOSS", op, details: { path: file.path, sha256: file.sha256 } });
}
