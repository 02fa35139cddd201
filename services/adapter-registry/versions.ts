// Versions of adapters: made whole or not at all, listed, removed. It knows neither gRPC nor SQL.
import { NibbleError } from "#packages/errors";
import { openAdapterFolder } from "#packages/hub";
import type { Turns } from "#packages/jobs";
import type { BlobFolder, Staging } from "./blobs.ts";
import { adapterName, notFound, versionName } from "./names.ts";
import { type Page, type PageRequest, readPage } from "./paging.ts";
import type { AdapterRecord, Store, VersionDraft, VersionRecord } from "./store.ts";
import { checkEtag, checkSameRequest } from "./store.ts";
import { checkHeader, draftOf, receiveFiles, receiveHeader, type UploadHeader, type UploadPart } from "./upload.ts";

export interface VersionLimits {
  /** Uploads at a time; further ones are refused with RESOURCE_EXHAUSTED. */
  uploadsMax: number;
  /** Sum of a version's files, in bytes. */
  versionBytesMax: number;
  /** Bytes of the disk that uploads leave free. */
  freeBytesMin: number;
}

export class Versions {
  readonly #now: () => number;
  readonly #blobs: BlobFolder;
  readonly #store: Store;
  readonly #limits: VersionLimits;
  readonly #turns: Turns;
  readonly #uploads = new Set<Promise<VersionRecord>>();

  /** `turns` is shared by all who change blobs and rows: nobody removes a blob that is about to be used. */
  constructor(now: () => number, blobs: BlobFolder, store: Store, turns: Turns, limits: VersionLimits) {
    this.#now = now;
    this.#blobs = blobs;
    this.#store = store;
    this.#turns = turns;
    this.#limits = limits;
  }

  /** Stores what the parts bring; what fails or is aborted leaves nothing behind. */
  async create(parts: AsyncIterable<UploadPart>, signal: AbortSignal): Promise<VersionRecord> {
    if (this.#uploads.size >= this.#limits.uploadsMax) {
      const message = `uploads: expected at most ${this.#limits.uploadsMax} at a time, got one more`;
      throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op: "create_version" });
    }
    const upload = this.#create(parts[Symbol.asyncIterator](), signal);
    this.#uploads.add(upload);
    try {
      return await upload;
    } finally {
      this.#uploads.delete(upload);
    }
  }

  async get(adapterId: string, number: number, op = "get_version"): Promise<VersionRecord> {
    const [version] = await this.#store.versions({ adapterId, number });
    if (version) return version;
    throw notFound(versionName({ adapterId, number }), op);
  }

  /** Newest first. */
  async list(adapterId: string, request: PageRequest): Promise<Page<VersionRecord>> {
    const op = "list_versions";
    await this.adapter(adapterId, op);
    return readPage(
      `versions of ${adapterId}`,
      op,
      request,
      (after, limit) =>
        this.#store.versions({ adapterId, beforeNumber: Number(after ?? Number.MAX_SAFE_INTEGER), limit }),
      ({ number }) => String(number),
    );
  }

  /** Returns the bytes that were freed. */
  async delete(adapterId: string, number: number, etag: string): Promise<number> {
    return this.#turns.take(async () => {
      const removed = await this.#store.removeVersion(number, { adapterId, etag, nowMs: this.#now() });
      return this.#removeUnused(removed);
    });
  }

  async adapter(id: string, op = "get_adapter"): Promise<AdapterRecord> {
    const [adapter] = await this.#store.adapters({ id });
    if (adapter) return adapter;
    throw notFound(adapterName(id), op);
  }

  /** By id. */
  async listAdapters(request: PageRequest): Promise<Page<AdapterRecord>> {
    return readPage(
      "adapters",
      "list_adapters",
      request,
      (after, limit) => this.#store.adapters({ afterId: after ?? "", limit }),
      ({ id }) => id,
    );
  }

  /** By id, those after an id. */
  adaptersAfter(afterId: string, limit: number): Promise<AdapterRecord[]> {
    return this.#store.adapters({ afterId, limit });
  }

  /** Waits for uploads that were told to stop. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#uploads);
  }

  async #create(parts: AsyncIterator<UploadPart>, signal: AbortSignal): Promise<VersionRecord> {
    const header = await receiveHeader(parts);
    checkHeader(header);
    const draft = draftOf(header);
    const made = await this.#madeBefore(draft);
    if (made) return made;
    await this.#admit(header);
    const staging = await this.#blobs.stage();
    try {
      await receiveFiles(parts, header.files, staging);
      checkAdapter(staging, header);
      signal.throwIfAborted();
      return await this.#turns.take(() => this.#publish(staging, draft, header.etag));
    } catch (thrown) {
      throw describeFull(NibbleError.from(thrown, "create_version"), header);
    } finally {
      await staging.discard();
    }
  }

  async #madeBefore({ request }: VersionDraft): Promise<VersionRecord | undefined> {
    if (!request) return undefined;
    const [made] = await this.#store.versions({ requestId: request.id });
    if (made) checkSameRequest("create_version", made, request);
    return made;
  }

  /** Refuses at once what would be refused after gigabytes. */
  async #admit({ adapterId, etag, files }: UploadHeader): Promise<void> {
    const op = "create_version";
    const [adapter] = await this.#store.adapters({ id: adapterId });
    checkEtag(op, adapterName(adapterId), etag, adapter);
    const { versionBytesMax, freeBytesMin } = this.#limits;
    const bytes = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    if (bytes > versionBytesMax) {
      const message = `${adapterName(adapterId)}: expected at most ${versionBytesMax} bytes a version, got ${bytes}`;
      throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
    }
    const free = Math.max(0, (await this.#blobs.freeBytes()) - freeBytesMin);
    if (bytes <= free) return;
    const message = `${adapterName(adapterId)}: the registry's disk is too full: expected ${bytes} free bytes, got ${free}`;
    const details = { expected: String(bytes), got: String(free) };
    throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op, details });
  }

  async #publish(staging: Staging, draft: VersionDraft, etag: string): Promise<VersionRecord> {
    try {
      await this.#blobs.publish(staging, draft.files);
      return await this.#store.addVersion(draft, { adapterId: draft.adapterId, etag, nowMs: this.#now() });
    } catch (thrown) {
      // What cannot be cleared now is cleared at the next start.
      await this.#removeUnused(draft).catch(() => {});
      throw thrown;
    }
  }

  async #removeUnused({ files }: VersionDraft): Promise<number> {
    const sha256s = new Set(files.map(({ sha256 }) => sha256));
    const used = await this.#store.blobsInUse([...sha256s]);
    return this.#blobs.remove([...sha256s].filter((sha256) => !used.has(sha256)));
  }
}

/** The files must be an adapter that PEFT and our engine open, made for the base that the header names. */
function checkAdapter(staging: Staging, header: UploadHeader): void {
  const name = adapterName(header.adapterId);
  const refuse = (message: string, cause?: unknown): never => {
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "create_version", cause });
  };
  let digestInFile: string | null = null;
  try {
    using adapter = openAdapterFolder(staging.path);
    digestInFile = adapter.baseDigest;
  } catch (thrown) {
    const error = NibbleError.from(thrown);
    if (error.code === "INTERNAL" || error.code === "RESOURCE_EXHAUSTED") throw error;
    // The bytes are what was sent; it is their content that is wrong. Paths of this machine help nobody else.
    const text = error.reason.replaceAll(`${staging.path}/`, "");
    refuse(text.replaceAll(staging.path, name), thrown);
  }
  if (digestInFile !== null && digestInFile !== header.baseDigest) {
    refuse(`${name}: base_digest: expected ${digestInFile}, which the adapter's file names, got ${header.baseDigest}`);
  }
}

function describeFull(error: NibbleError, { adapterId }: UploadHeader): NibbleError {
  if (error.code !== "RESOURCE_EXHAUSTED") return error;
  const message = `${adapterName(adapterId)}: the registry's disk is full; nothing was stored (${error.message})`;
  return new NibbleError(message, { code: error.code, op: "create_version", details: error.details, cause: error });
}
