// Files by the sha256 of their bytes: blobs/ab/ab12…. A file is written aside in uploads/, synced, and renamed into
// place, so a blob is whole or not there. It knows no versions: callers say which blobs are in use.
import { createHash, randomUUID } from "node:crypto";
import { constants, mkdirSync } from "node:fs";
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import { NibbleError } from "#packages/errors";
import type { FileRecord } from "./store.ts";

/** The write call, replaceable by a test that plays a full disk. */
export type Write = (handle: FileHandle, bytes: Uint8Array, position: number) => Promise<number>;

const writeBytes: Write = async (handle, bytes, position) =>
  (await handle.write(bytes, 0, bytes.length, position)).bytesWritten;

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** NOT_FOUND for a missing file becomes undefined; everything else is thrown. */
async function orUndefined<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw thrown;
  }
}

/** Work that goes on side by side, and is over, all of it, when this ends. @throws what the first of them threw. */
export async function together<T>(works: readonly (() => Promise<T>)[]): Promise<T[]> {
  const ends = await Promise.allSettled(works.map((work) => work()));
  return ends.map((end) => {
    if (end.status === "rejected") throw end.reason;
    return end.value;
  });
}

export class BlobFolder {
  readonly #blobs: string;
  readonly #uploads: string;
  readonly #write: Write;

  constructor(root: string, write: Write = writeBytes) {
    this.#blobs = join(root, "blobs");
    this.#uploads = join(root, "uploads");
    this.#write = write;
    for (const folder of [this.#blobs, this.#uploads]) mkdirSync(folder, { recursive: true });
  }

  /** Bytes that an upload may still fill. */
  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.#uploads);
    return bavail * bsize;
  }

  /** A folder for the files of one upload. */
  async stage(): Promise<Staging> {
    const path = join(this.#uploads, randomUUID());
    await mkdir(path);
    return new Staging(path, this.#write);
  }

  /**
   * Moves staged files into place. A blob that is there already is replaced by the same bytes, which were verified a
   * moment ago: what may have rotted on the disk is healed.
   */
  async publish(staging: Staging, files: readonly FileRecord[]): Promise<void> {
    const folders = [...new Set(files.map(({ sha256 }) => dirname(this.#pathOf(sha256))))];
    await together(folders.map((folder) => () => mkdir(folder, { recursive: true })));
    await together(
      files.map(
        ({ path, sha256 }) =>
          () =>
            rename(join(staging.path, path), this.#pathOf(sha256)),
      ),
    );
    await together(folders.map((folder) => () => syncFolder(folder)));
    await syncFolder(this.#blobs);
  }

  /** A handle on a blob's bytes; undefined if there is none. It stays readable when the blob is removed. */
  open(sha256: string): Promise<FileHandle | undefined> {
    return orUndefined(open(this.#pathOf(sha256), "r"));
  }

  /** Removes blobs; returns the bytes that this freed. */
  async remove(sha256s: Iterable<string>): Promise<number> {
    let bytes = 0;
    for (const sha256 of sha256s) {
      const found = await orUndefined(stat(this.#pathOf(sha256)));
      bytes += found?.size ?? 0;
      await rm(this.#pathOf(sha256), { force: true });
    }
    return bytes;
  }

  /**
   * Clears what a killed process left: abandoned uploads, and blobs that no version uses. Only for the start, while
   * nothing is uploading. Returns what it removed, and the blobs in use that are missing or have another size.
   */
  async collect(inUse: ReadonlyMap<string, number>): Promise<{ uploads: number; bytes: number; damaged: string[] }> {
    const uploads = await readdir(this.#uploads);
    for (const name of uploads) await rm(join(this.#uploads, name), { recursive: true, force: true });
    let bytes = 0;
    const found = new Map<string, number>();
    for (const folder of await readdir(this.#blobs)) {
      for (const name of await readdir(join(this.#blobs, folder))) {
        const path = join(this.#blobs, folder, name);
        const { size } = await stat(path);
        if (inUse.has(name)) found.set(name, size);
        else {
          bytes += size;
          await rm(path, { force: true });
        }
      }
    }
    const damaged = [...inUse].filter(([sha256, size]) => found.get(sha256) !== size).map(([sha256]) => sha256);
    return { uploads: uploads.length, bytes, damaged };
  }

  #pathOf(sha256: string): string {
    return join(this.#blobs, sha256.slice(0, 2), sha256);
  }
}

/** The files of one upload, in a folder of their own. */
export class Staging {
  readonly path: string;
  readonly #write: Write;

  constructor(path: string, write: Write) {
    this.path = path;
    this.#write = write;
  }

  async create(path: string): Promise<StagedFile> {
    const full = join(this.path, path);
    await mkdir(dirname(full), { recursive: true });
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
    return new StagedFile(path, await open(full, flags, 0o644), this.#write);
  }

  /** Removes one file, if it is there. */
  async remove(path: string): Promise<void> {
    await rm(join(this.path, path), { force: true });
  }

  /** Removes the folder and what is left in it. */
  async discard(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

/** A file that is being written and hashed. */
export class StagedFile {
  /** Inside its staging folder. */
  readonly name: string;
  readonly #handle: FileHandle;
  readonly #write: Write;
  readonly #hash = createHash("sha256");
  #size = 0;

  constructor(name: string, handle: FileHandle, write: Write) {
    this.name = name;
    this.#handle = handle;
    this.#write = write;
  }

  get size(): number {
    return this.#size;
  }

  async append(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes);
    for (let done = 0; done < bytes.length; ) {
      const count = await this.#write(this.#handle, bytes.subarray(done), this.#size + done);
      if (count === 0) {
        const message = `a blob: expected to write ${bytes.length - done} bytes, got 0 written`;
        throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op: "write_blob" });
      }
      done += count;
    }
    this.#size += bytes.length;
  }

  /** Makes the bytes durable and returns their sha256. */
  async finish(): Promise<string> {
    await this.#handle.sync();
    await this.#handle.close();
    return this.#hash.digest("hex");
  }

  /** Closes a file that will not be finished. */
  async abandon(): Promise<void> {
    await this.#handle.close();
  }
}
