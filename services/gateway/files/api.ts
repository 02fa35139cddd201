// /v1/files: data for fine-tuning, one JSON object a line.
import { createReadStream } from "node:fs";
import { type Answer, parseObject, type Request, type Route, route, textLinesOf } from "#packages/http";
import { refusal } from "../errors.ts";
import { Fields } from "../fields.ts";
import type { Keys } from "../keys.ts";
import { pageOf } from "../paging.ts";
import { receiveUpload } from "./multipart.ts";
import type { FileRecord, FileStore } from "./store.ts";

const purposes = ["fine-tune"] as const;
const limitDefault = 10_000;

function view({ id, fileName, purpose, bytes, createdMs }: FileRecord) {
  return {
    id,
    object: "file",
    bytes,
    created_at: Math.floor(createdMs / 1000),
    filename: fileName,
    purpose,
    status: "processed",
  };
}

/** @throws INVALID_ARGUMENT with the line that is no JSON object. */
async function checkLines(path: string): Promise<void> {
  let line = 0;
  let rows = 0;
  for await (const text of textLinesOf(createReadStream(path))) {
    line++;
    if (text.trim() === "") continue;
    parseObject(text, `file: line ${line}`);
    rows++;
  }
  if (rows === 0) throw refusal("file: expected one JSON object a line, got none", { param: "file" });
}

export class FilesApi {
  readonly #store: FileStore;
  readonly #keys: Keys;
  readonly #bytesMax: number;

  /** @param bytesMax of one file. */
  constructor(store: FileStore, keys: Keys, bytesMax: number) {
    this.#store = store;
    this.#keys = keys;
    this.#bytesMax = bytesMax;
  }

  routes(): Route[] {
    const known = (work: (id: string, caller: string) => Promise<Answer>) => (request: Request) =>
      work(request.params["id"] ?? "", this.#keys.callerOf(request.headers));
    return [
      ...route("POST", "/v1/files", (request) => this.#upload(request)),
      ...route("GET", "/v1/files", (request) => this.#list(request)),
      ...route(
        "GET",
        "/v1/files/:id",
        known(async (id, caller) => ({ json: view(await this.#store.get(id, caller)) })),
      ),
      ...route(
        "DELETE",
        "/v1/files/:id",
        known((id, caller) => this.#remove(id, caller)),
      ),
      ...route(
        "GET",
        "/v1/files/:id/content",
        known((id, caller) => this.#content(id, caller)),
      ),
    ];
  }

  async #upload(request: Request): Promise<Answer> {
    const owner = this.#keys.callerOf(request.headers);
    const record = await this.#store.add(async (path) => {
      const { fields, fileName, bytes } = await receiveUpload(request, path, this.#bytesMax);
      const read = new Fields(fields);
      const purpose = read.choice("purpose", purposes) ?? read.missing("purpose");
      read.end();
      if (fileName === null) return read.missing("file");
      await checkLines(path);
      return { owner, fileName, purpose, bytes };
    });
    return { json: view(record) };
  }

  async #list(request: Request): Promise<Answer> {
    const records = await this.#store.list(this.#keys.callerOf(request.headers));
    const query = Fields.ofQuery(request.url);
    const purpose = query.text("purpose");
    const order = query.choice("order", ["asc", "desc"]) ?? "desc";
    const some = purpose === undefined ? records : records.filter((record) => record.purpose === purpose);
    return { json: pageOf(query, order === "asc" ? some.toReversed() : some, { limitDefault, view }) };
  }

  async #remove(id: string, caller: string): Promise<Answer> {
    await this.#store.remove(id, caller);
    return { json: { id, object: "file", deleted: true } };
  }

  async #content(id: string, caller: string): Promise<Answer> {
    await this.#store.get(id, caller);
    const headers = { "Content-Type": "application/jsonl", "Content-Length": String(await this.#store.sizeOf(id)) };
    return { headers, stream: () => createReadStream(this.#store.pathOf(id)) };
  }
}
