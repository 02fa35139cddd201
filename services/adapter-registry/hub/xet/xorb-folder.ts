// Xorbs on their way in, one folder a day. A client remembers for weeks, by the server's address, what it has sent, and
// does not send it again: so the day's folder is part of the address, outlives a restart, and when it goes the address
// goes with it.
import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { badRequest } from "../http.ts";
import { Xorb, xorbBytesMax } from "./xorb.ts";

const dayMs = 24 * 3600_000;
const sessionPattern = /^\d{4}-\d\d-\d\d-[0-9a-f]{8}$/;

export class XorbFolder {
  readonly #now: () => number;
  readonly #root: string;

  constructor(now: () => number, root: string) {
    this.#now = now;
    this.#root = root;
    mkdirSync(root, { recursive: true });
  }

  /** Today's folder, made if need be; those from before yesterday are removed. */
  async session(): Promise<string> {
    const day = (ms: number) => new Date(ms).toISOString().slice(0, 10);
    const [today, yesterday] = [day(this.#now()), day(this.#now() - dayMs)];
    const found = (await readdir(this.#root)).sort();
    for (const name of found) {
      if (name < yesterday) await rm(join(this.#root, name), { recursive: true, force: true });
    }
    const present = found.find((name) => name.startsWith(today));
    if (present !== undefined) return present;
    const made = `${today}-${randomUUID().slice(0, 8)}`;
    await mkdir(join(this.#root, made));
    return made;
  }

  /** Stores a xorb; false if it was there. */
  async put(session: string, hash: string, body: AsyncIterable<Buffer>): Promise<boolean> {
    const path = this.#pathOf(session, hash);
    const bytes = await bodyOf(body, xorbBytesMax, "a xorb");
    new Xorb(bytes);
    const isThere = (await this.sizeOf(session, hash)) !== undefined;
    const partial = `${path}.${randomUUID()}`;
    try {
      const handle = await open(partial, "wx");
      try {
        await handle.writeFile(bytes);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(partial, path);
    } catch (thrown) {
      await rm(partial, { force: true });
      throw thrown;
    }
    return !isThere;
  }

  async sizeOf(session: string, hash: string): Promise<number | undefined> {
    return (await stat(this.#pathOf(session, hash)).catch(() => undefined))?.size;
  }

  /** @throws INVALID_ARGUMENT if it is not there. */
  async read(session: string, hash: string): Promise<Xorb> {
    const bytes = await readFile(this.#pathOf(session, hash)).catch((thrown: NodeJS.ErrnoException) => {
      if (thrown.code !== "ENOENT") throw thrown;
      throw badRequest(`xorb ${hash}: expected it to be uploaded before the shard that names it`);
    });
    return new Xorb(bytes);
  }

  #pathOf(session: string, hash: string): string {
    if (!sessionPattern.test(session))
      throw badRequest(`session: expected one of this server, got ${session.slice(0, 40)}`);
    if (!/^[0-9a-f]{64}$/.test(hash)) throw badRequest(`xorb: expected 64 hex digits, got ${hash.slice(0, 80)}`);
    return join(this.#root, session, hash);
  }
}

export async function bodyOf(body: AsyncIterable<Buffer>, bytesMax: number, what: string): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of body) {
    size += piece.length;
    if (size > bytesMax) throw badRequest(`${what}: expected at most ${bytesMax} bytes, got more`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}
