// Reads a version's files in pieces, from any offset. Bytes are read when the client has taken those before.
import type { FileHandle } from "node:fs/promises";
import { NibbleError } from "#packages/errors";
import type { BlobFolder } from "./blobs.ts";
import { notFound, versionName } from "./names.ts";
import { damaged, readBlob } from "./read-blob.ts";
import type { FileRecord } from "./store.ts";
import type { Versions } from "./versions.ts";

const op = "download_file";

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
      let offset = request.offset;
      for await (const data of readBlob(handle, file, { start: offset, end: file.sizeBytes }, op)) {
        yield { offset, data, ...(offset === request.offset ? { file } : {}) };
        offset += data.length;
      }
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
    throw damaged(file, "its bytes are missing", op);
  }
}
