// Large files on their way in (git-lfs' batch API): each goes to an address of its own, whole or in parts, and counts
// only once its bytes have the sha256 by which it was announced. Those that are here already are not asked for again.

import { open } from "node:fs/promises";
import { join } from "node:path";
import { NibbleError } from "#packages/errors";
import type { Turns } from "#packages/jobs";
import type { BlobFolder, StagedFile, Staging } from "../blobs.ts";
import { busy } from "./errors.ts";
import { badRequest } from "./http.ts";
import type { HubStore } from "./store.ts";

export interface ObjectLimits {
  /** Uploads at a time; further ones are told to come again. */
  uploadsMax: number;
  /** Largest file, in bytes. */
  objectBytesMax: number;
  /** Bytes of the disk that uploads leave free. */
  freeBytesMin: number;
  /** A larger file goes in parts of this size, so that a broken connection costs one of them. */
  partBytes: number;
}

export interface LargeFile {
  sha256: string;
  sizeBytes: number;
}

export interface UploadPlan {
  /** Null: one request takes all. */
  partBytes: number | null;
  parts: number;
}

const mebibyte = 1 << 20;
const partsMax = 1000;
const op = "upload_object";

export class Objects {
  readonly #now: () => number;
  readonly #blobs: BlobFolder;
  readonly #store: HubStore;
  readonly #turns: Turns;
  readonly #limits: ObjectLimits;
  /** Files that come in parts, by upload. */
  readonly #partial = new Map<string, { staging: Staging; startMs: number }>();
  #uploads = 0;

  constructor(now: () => number, blobs: BlobFolder, store: HubStore, turns: Turns, limits: ObjectLimits) {
    this.#now = now;
    this.#blobs = blobs;
    this.#store = store;
    this.#turns = turns;
    this.#limits = limits;
  }

  /** Those among the files that are here. @throws if a size is not that of the file. */
  async present(files: readonly LargeFile[]): Promise<Set<string>> {
    const found = await this.#store.objects(files.map(({ sha256 }) => sha256));
    for (const { sha256, sizeBytes } of files) {
      const size = found.get(sha256);
      if (size === undefined || size === sizeBytes) continue;
      throw badRequest(`${sha256}: size: expected ${size}, got ${sizeBytes}`);
    }
    return new Set(found.keys());
  }

  plan({ sha256, sizeBytes }: LargeFile): UploadPlan {
    const { objectBytesMax, partBytes: least } = this.#limits;
    if (sizeBytes > objectBytesMax)
      throw badRequest(`${sha256}: expected at most ${objectBytesMax} bytes, got ${sizeBytes}`);
    if (sizeBytes <= least) return { partBytes: null, parts: 1 };
    const partBytes = Math.max(least, Math.ceil(sizeBytes / partsMax));
    return { partBytes, parts: Math.ceil(sizeBytes / partBytes) };
  }

  /** Takes a whole file. */
  async put(file: LargeFile, body: AsyncIterable<Buffer>): Promise<void> {
    await this.uploading(file.sizeBytes, async () => {
      const staging = await this.#blobs.stage();
      try {
        await receive(await staging.create("object"), body, file.sizeBytes, file.sha256);
        await this.publish(staging, "object", file);
      } finally {
        await staging.discard();
      }
    });
  }

  /** Takes one part of a file, from 1 on; it may be sent again. */
  async putPart(upload: string, number: number, size: number, body: AsyncIterable<Buffer>): Promise<void> {
    await this.uploading(size, async () => {
      const { staging } = await this.#partialUpload(upload);
      const name = `part-${number}`;
      await staging.remove(name);
      await receive(await staging.create(name), body, size);
    });
  }

  /** All parts have come. */
  async complete(upload: string, file: LargeFile): Promise<void> {
    if ((await this.present([file])).has(file.sha256)) return;
    const { staging } = await this.#partialUpload(upload);
    await this.uploading(file.sizeBytes, async () => {
      try {
        await this.publish(staging, await this.#join(staging, file), file);
      } finally {
        this.#partial.delete(upload);
        await staging.discard();
      }
    });
  }

  /** Does work that takes bytes in, if there is room for them and for one more at a time. */
  async uploading<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    const { uploadsMax } = this.#limits;
    if (this.#uploads >= uploadsMax) throw busy(`uploads: expected at most ${uploadsMax} at a time, got one more`);
    await this.checkRoom(bytes);
    this.#uploads++;
    try {
      return await work();
    } finally {
      this.#uploads--;
    }
  }

  /** @throws RESOURCE_EXHAUSTED unless the disk has room for so many bytes. */
  async checkRoom(bytes: number): Promise<void> {
    const free = Math.max(0, (await this.#blobs.freeBytes()) - this.#limits.freeBytesMin);
    if (bytes <= free) return;
    const message = `the registry's disk is too full: expected ${bytes} free bytes, got ${free}`;
    throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op });
  }

  /** Puts a staged file whose sha256 is known to be right among the blobs. */
  async publish(staging: Staging, path: string, { sha256, sizeBytes }: LargeFile): Promise<void> {
    await this.#turns.take(async () => {
      await this.#blobs.publish(staging, [{ path, sha256, sizeBytes }]);
      await this.#store.addObject({ sha256, sizeBytes }, this.#now());
    });
  }

  /** Forgets uploads in parts that began before `beforeMs`. */
  async sweep(beforeMs: number): Promise<void> {
    for (const [upload, { staging, startMs }] of this.#partial) {
      if (startMs >= beforeMs) continue;
      this.#partial.delete(upload);
      await staging.discard();
    }
  }

  /** Makes one file of the parts; returns its name. */
  async #join(staging: Staging, file: LargeFile): Promise<string> {
    const { partBytes, parts } = this.plan(file);
    const whole = await staging.create("whole");
    let isFinished = false;
    try {
      for (let number = 1; number <= parts; number++) await append(whole, staging, `part-${number}`, partBytes);
      isFinished = true;
      const sha256 = await whole.finish();
      checkWhole(file, whole.size, sha256);
    } finally {
      if (!isFinished) await whole.abandon();
    }
    return whole.name;
  }

  async #partialUpload(upload: string) {
    const found = this.#partial.get(upload);
    if (found) return found;
    const made = { staging: await this.#blobs.stage(), startMs: this.#now() };
    // Another part of the same file may have been faster.
    const first = this.#partial.get(upload);
    if (first) {
      await made.staging.discard();
      return first;
    }
    this.#partial.set(upload, made);
    return made;
  }
}

/** Writes a body of known size; the file is finished or given up, never left open. */
async function receive(file: StagedFile, body: AsyncIterable<Buffer>, size: number, sha256?: string): Promise<void> {
  let isFinished = false;
  try {
    for await (const piece of body) {
      await file.append(piece);
      if (file.size > size) throw new NibbleError(`expected ${size} bytes, got more`, { code: "DATA_LOSS", op });
    }
    isFinished = true;
    const got = await file.finish();
    if (sha256 !== undefined) checkWhole({ sha256, sizeBytes: size }, file.size, got);
    else if (file.size !== size)
      throw new NibbleError(`a part: expected ${size} bytes, got ${file.size}`, { code: "DATA_LOSS", op });
  } finally {
    if (!isFinished) await file.abandon();
  }
}

function checkWhole(file: LargeFile, size: number, sha256: string): void {
  if (size === file.sizeBytes && sha256 === file.sha256) return;
  const message = `expected ${file.sizeBytes} bytes of sha256 ${file.sha256}, got ${size} of ${sha256}`;
  throw new NibbleError(message, { code: "DATA_LOSS", op });
}

/** Appends a part that was received and removes it: the disk holds the file once, and one part. */
async function append(whole: StagedFile, staging: Staging, name: string, bytes: number | null): Promise<void> {
  const handle = await open(join(staging.path, name), "r").catch(() => {
    throw new NibbleError(`${name}: expected ${bytes} bytes, got none`, { code: "DATA_LOSS", op });
  });
  for await (const piece of handle.createReadStream({ highWaterMark: mebibyte })) await whole.append(piece);
  await staging.remove(name);
}
