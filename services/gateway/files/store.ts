// Uploaded files: a folder with the bytes and a record beside them. What has no record is not there, so that an upload
// that breaks off leaves nothing.
import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { NibbleError } from "#packages/errors";
import { refusal } from "../errors.ts";

export interface FileRecord {
  id: string;
  fileName: string;
  purpose: string;
  bytes: number;
  createdMs: number;
}

const idPattern = /^file-[0-9a-f]{24}$/;

export class FileStore {
  readonly #now: () => number;
  readonly #dir: string;
  readonly #bytesMax: number;

  /** @param bytesMax of all files together. */
  constructor(now: () => number, dir: string, bytesMax: number) {
    this.#now = now;
    this.#dir = dir;
    this.#bytesMax = bytesMax;
    mkdirSync(dir, { recursive: true });
  }

  /** What all paths of files begin with. */
  get prefix(): string {
    return `${this.#dir}/`;
  }

  /** Where a file's bytes are. */
  pathOf(id: string): string {
    return join(this.#dir, `${id}.jsonl`);
  }

  #recordOf(id: string): string {
    return join(this.#dir, `${id}.json`);
  }

  /** The id of the file at a path of this store. */
  idOfPath(path: string): string | undefined {
    const id = /(file-[0-9a-f]{24})\.jsonl$/.exec(path)?.[1];
    return id !== undefined && this.pathOf(id) === path ? id : undefined;
  }

  /** Takes what `write` puts at the path that it is given. Whatever it throws, nothing is left. */
  async add(write: (path: string) => Promise<Omit<FileRecord, "id" | "createdMs">>): Promise<FileRecord> {
    const id = `file-${randomUUID().replaceAll("-", "").slice(0, 24)}`;
    const part = join(this.#dir, `${id}.part`);
    try {
      const record: FileRecord = { id, createdMs: this.#now(), ...(await write(part)) };
      const used = (await this.list()).reduce((sum, { bytes }) => sum + bytes, 0);
      if (used + record.bytes > this.#bytesMax) {
        const message = `file: expected room for ${record.bytes} bytes, got ${this.#bytesMax - used} of ${this.#bytesMax}: delete files that are no longer needed`;
        throw refusal(message, { code: "FAILED_PRECONDITION", param: "file", openaiCode: "storage_full" });
      }
      await rename(part, this.pathOf(id));
      await writeFile(`${this.#recordOf(id)}.part`, JSON.stringify(record));
      await rename(`${this.#recordOf(id)}.part`, this.#recordOf(id));
      return record;
    } catch (thrown) {
      await Promise.all([part, this.pathOf(id)].map((path) => rm(path, { force: true })));
      throw thrown;
    }
  }

  /** @throws NOT_FOUND */
  async get(id: string): Promise<FileRecord> {
    if (idPattern.test(id)) {
      const text = await readFile(this.#recordOf(id), "utf8").catch((thrown: unknown) => {
        if (NibbleError.from(thrown).code !== "NOT_FOUND") throw thrown;
      });
      if (text !== undefined) return JSON.parse(text) as FileRecord;
    }
    throw refusal(`file: expected one that is there, got ${id.slice(0, 80)}`, { code: "NOT_FOUND", param: "file_id" });
  }

  /** Newest first. */
  async list(): Promise<FileRecord[]> {
    const ids = (await readdir(this.#dir)).flatMap((name) => /^(file-[0-9a-f]{24})\.json$/.exec(name)?.[1] ?? []);
    const records = await Promise.all(ids.map((id) => this.get(id).catch(() => undefined)));
    const there = records.filter((one) => one !== undefined);
    return there.sort((a, b) => b.createdMs - a.createdMs || (a.id < b.id ? -1 : 1));
  }

  async remove(id: string): Promise<void> {
    await this.get(id);
    await rm(this.#recordOf(id), { force: true });
    await rm(this.pathOf(id), { force: true });
  }

  /** Removes what uploads of a process that was killed left behind. */
  async sweep(): Promise<void> {
    const names = await readdir(this.#dir);
    const known = new Set(names);
    for (const name of names) {
      const isPart = name.endsWith(".part");
      const isAlone = name.endsWith(".jsonl") && !known.has(name.replace(/jsonl$/, "json"));
      if (isPart || isAlone) await rm(join(this.#dir, name), { force: true });
    }
  }

  /** Bytes on the disk now. */
  async sizeOf(id: string): Promise<number> {
    return (await stat(this.pathOf(id))).size;
  }
}
