// Uploaded files: a folder with the bytes and a record beside them. What has no record is not there, so that an upload
// that breaks off leaves nothing.
import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { NibbleError } from "#packages/errors";
import { refusal } from "../errors.ts";
import { isSeenBy } from "../keys.ts";

export interface FileRecord {
  id: string;
  /** Who uploaded it; "" before there were keys. */
  owner: string;
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
      const used = (await this.#all()).reduce((sum, { bytes }) => sum + bytes, 0);
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

  /** @throws NOT_FOUND, also for another caller's. */
  async get(id: string, caller: string): Promise<FileRecord> {
    const record = await this.#read(id);
    if (record && isSeenBy(caller, record.owner)) return record;
    throw refusal(`file: expected one that is there, got ${id.slice(0, 80)}`, { code: "NOT_FOUND", param: "file_id" });
  }

  async #read(id: string): Promise<FileRecord | undefined> {
    if (!idPattern.test(id)) return undefined;
    const text = await readFile(this.#recordOf(id), "utf8").catch((thrown: unknown) => {
      if (NibbleError.from(thrown).code !== "NOT_FOUND") throw thrown;
    });
    return text === undefined ? undefined : { owner: "", ...(JSON.parse(text) as Omit<FileRecord, "owner">) };
  }

  /** A caller's, newest first. */
  async list(caller: string): Promise<FileRecord[]> {
    const records = (await this.#all()).filter(({ owner }) => isSeenBy(caller, owner));
    return records.sort((a, b) => b.createdMs - a.createdMs || (a.id < b.id ? -1 : 1));
  }

  async #all(): Promise<FileRecord[]> {
    const ids = (await readdir(this.#dir)).flatMap((name) => /^(file-[0-9a-f]{24})\.json$/.exec(name)?.[1] ?? []);
    const records = await Promise.all(ids.map((id) => this.#read(id).catch(() => undefined)));
    return records.filter((one) => one !== undefined);
  }

  async remove(id: string, caller: string): Promise<void> {
    await this.get(id, caller);
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
