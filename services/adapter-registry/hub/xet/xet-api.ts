// The upload half of the Xet protocol. Python's client sends large files no other way once hf_xet is installed, whatever
// a server says about LFS; so this server takes them, puts the files together and keeps them as any other large file.
// Downloads need none of it: without an X-Xet-Hash header clients read plain HTTP.

import { Slots } from "#packages/jobs";
import type { Access } from "../access.ts";
import { type Answer, lengthOf, type Request, type Route, route } from "../http.ts";
import type { Objects } from "../objects.ts";
import { keyOf } from "../read-api.ts";
import type { Repos } from "../repos.ts";
import { parseShard, type ShardFile, shardBytesMax } from "./shard.ts";
import type { Xorb } from "./xorb.ts";
import { bodyOf, type XorbFolder } from "./xorb-folder.ts";

export interface XetDomain {
  access: Access;
  repos: Repos;
  objects: Objects;
  xorbs: XorbFolder;
}

const casPath = "/hub/xet";
const pieceBytes = 1 << 20;
const slotsMax = 4;

export class XetApi {
  readonly #access: Access;
  readonly #repos: Repos;
  readonly #objects: Objects;
  readonly #xorbs: XorbFolder;
  /** A xorb is held in memory while it is checked; clients send many at a time. */
  readonly #slots = new Slots(slotsMax);

  constructor({ access, repos, objects, xorbs }: XetDomain) {
    this.#access = access;
    this.#repos = repos;
    this.#objects = objects;
    this.#xorbs = xorbs;
  }

  routes(): Route[] {
    const cas = `${casPath}/:session/v1`;
    const xorb = `${cas}/xorbs/default/:hash`;
    const signed = (handler: (request: Request) => Promise<Answer>) => async (request: Request) => {
      this.#access.checkPass(request, `${casPath}/${request.params["session"]}`);
      return handler(request);
    };
    return [
      route("GET", "/api/:types/:owner/:name/xet-write-token/:revision", (request) => this.#token(request)),
      route(
        "POST",
        xorb,
        signed((request) => this.#putXorb(request)),
      ),
      route(
        "HEAD",
        xorb,
        signed((request) => this.#headXorb(request)),
      ),
      route(
        "POST",
        `${cas}/shards`,
        signed((request) => this.#putShard(request)),
      ),
    ].flat();
  }

  async #token(request: Request): Promise<Answer> {
    this.#access.checkOwner(request);
    await this.#repos.openToWrite(keyOf(request));
    const path = `${casPath}/${await this.#xorbs.session()}`;
    const { pass, expiresMs } = this.#access.pass(path);
    const [casUrl, exp] = [request.origin + path, Math.floor(expiresMs / 1000)];
    const headers = { "X-Xet-Cas-Url": casUrl, "X-Xet-Access-Token": pass, "X-Xet-Token-Expiration": String(exp) };
    return { json: { accessToken: pass, exp, casUrl }, headers };
  }

  async #putXorb(request: Request): Promise<Answer> {
    const { session = "", hash = "" } = request.params;
    await this.#objects.checkRoom(lengthOf(request));
    const isNew = await this.#slots.take(() => this.#xorbs.put(session, hash, request.body));
    return { json: { was_inserted: isNew } };
  }

  async #headXorb({ params }: Request): Promise<Answer> {
    const size = await this.#xorbs.sizeOf(params["session"] ?? "", params["hash"] ?? "");
    return size === undefined ? { status: 404 } : { headers: { "Content-Length": String(size) } };
  }

  /** The files of a shard become large files that a commit may name. */
  async #putShard({ params, body }: Request): Promise<Answer> {
    const files = await this.#slots.take(async () => parseShard(await bodyOf(body, shardBytesMax, "a shard")));
    const present = await this.#objects.present(files);
    const missing = new Map(files.filter(({ sha256 }) => !present.has(sha256)).map((file) => [file.sha256, file]));
    for (const file of missing.values()) await this.#objects.put(file, this.#bytesOf(params["session"] ?? "", file));
    return { json: { result: missing.size > 0 ? 1 : 0 } };
  }

  /** Terms of one xorb mostly follow each other: the last one is kept. */
  async *#bytesOf(session: string, { terms }: ShardFile): AsyncGenerator<Buffer> {
    let last: { hash: string; xorb: Xorb } | undefined;
    let pieces: Buffer[] = [];
    let size = 0;
    for (const { xorb: hash, start, end } of terms) {
      if (last?.hash !== hash) last = { hash, xorb: await this.#xorbs.read(session, hash) };
      for (const piece of last.xorb.read(start, end)) {
        pieces.push(piece);
        size += piece.length;
        if (size < pieceBytes) continue;
        yield Buffer.concat(pieces);
        pieces = [];
        size = 0;
      }
    }
    yield Buffer.concat(pieces);
  }
}
