// Receives the parts of an upload into a staging folder and checks every one of them against the header. What is
// wrong is named: the file, what was expected, what came. It knows no store.
import { createHash } from "node:crypto";
import { NibbleError } from "#packages/errors";
import { adapterConfigFileName, adapterWeightsFileName, checkInnerPaths } from "#packages/hub";
import type { StagedFile, Staging } from "./blobs.ts";
import type { FileRecord, QuantizationRecord, VersionDraft } from "./store.ts";

const op = "create_version";

export interface UploadHeader {
  requestId: string;
  adapterId: string;
  baseDigest: string;
  baseModel: string;
  baseQuantization: QuantizationRecord | null;
  metadata: Record<string, string>;
  files: FileRecord[];
  etag: string;
}

export interface Chunk {
  /** Empty: the same file as in the chunk before. */
  path: string;
  data: Uint8Array;
}

export type UploadPart = { case: "header"; value: UploadHeader } | { case: "chunk"; value: Chunk };

function fail(code: "INVALID_ARGUMENT" | "DATA_LOSS", message: string, details: Record<string, string> = {}): never {
  throw new NibbleError(message, { code, op, details });
}

/** The first part, which must be the header. */
export async function receiveHeader(parts: AsyncIterator<UploadPart>): Promise<UploadHeader> {
  const first = await parts.next();
  if (first.done) return fail("INVALID_ARGUMENT", "the upload: expected a header, got nothing");
  if (first.value.case === "header") return first.value.value;
  return fail("INVALID_ARGUMENT", "the upload: expected the header first, got a chunk");
}

function isHex(text: string): boolean {
  return /^[0-9a-f]+$/.test(text);
}

/** What can be refused before any bytes come. */
export function checkHeader(header: UploadHeader): void {
  const { files, baseDigest } = header;
  const [kind, hex = ""] = baseDigest.split(":");
  if (kind !== "sha256" || hex.length !== 64 || !isHex(hex) || baseDigest.length !== 71) {
    fail("INVALID_ARGUMENT", `base_digest: expected "sha256:" and 64 lower-case hex digits, got ${baseDigest}`);
  }
  const paths = files.map(({ path }) => path);
  checkInnerPaths(paths, op);
  for (const { path, sha256, sizeBytes } of files) {
    if (sha256.length !== 64 || !isHex(sha256)) {
      fail("INVALID_ARGUMENT", `${path}: sha256: expected 64 lower-case hex digits, got ${sha256}`, { path });
    }
    if (!Number.isSafeInteger(sizeBytes)) fail("INVALID_ARGUMENT", `${path}: size_bytes: too large: ${sizeBytes}`);
  }
  for (const path of [adapterConfigFileName, adapterWeightsFileName]) {
    if (paths.includes(path)) continue;
    fail("INVALID_ARGUMENT", `files: expected a PEFT adapter with ${path}, got ${paths.slice(0, 8).join(", ")}`);
  }
}

/** Writes the chunks of all files, in the header's order, until the stream ends. */
export async function receiveFiles(
  parts: AsyncIterator<UploadPart>,
  files: readonly FileRecord[],
  staging: Staging,
): Promise<void> {
  const receiver = new Receiver(files, staging);
  try {
    for (;;) {
      const next = await parts.next();
      if (next.done) break;
      if (next.value.case === "header") fail("INVALID_ARGUMENT", "the upload: expected one header, got a second one");
      else await receiver.take(next.value.value);
    }
    await receiver.end();
  } finally {
    await receiver.close();
  }
}

class Receiver {
  readonly #files: readonly FileRecord[];
  readonly #staging: Staging;
  /** Place of the open file in the list; those before it are finished. */
  #index = -1;
  #open: StagedFile | undefined;

  constructor(files: readonly FileRecord[], staging: Staging) {
    this.#files = files;
    this.#staging = staging;
  }

  async take({ path, data }: Chunk): Promise<void> {
    if (path === "" && this.#index < 0) fail("INVALID_ARGUMENT", "the first chunk: expected a path, got none");
    if (path !== "" && path !== this.#files[this.#index]?.path) await this.#moveTo(path);
    const file = this.#files[this.#index] as FileRecord;
    const staged = this.#open as StagedFile;
    const size = staged.size + data.length;
    if (size > file.sizeBytes) failSize(file, `at least ${size}`);
    await staged.append(data);
  }

  /** The stream has ended: what is still missing must be empty files. */
  async end(): Promise<void> {
    await this.#finish();
    await this.#skipTo(this.#files.length);
  }

  async close(): Promise<void> {
    await this.#open?.abandon();
  }

  async #moveTo(path: string): Promise<void> {
    const index = this.#files.findIndex((file) => file.path === path);
    if (index < 0) fail("INVALID_ARGUMENT", `${path}: expected a file that the header lists`, { path });
    if (index < this.#index) {
      const { path: open = "" } = this.#files[this.#index] ?? {};
      fail("INVALID_ARGUMENT", `${path}: expected files in the header's order, got its bytes after ${open}`, { path });
    }
    await this.#finish();
    await this.#skipTo(index);
    this.#index = index;
    this.#open = await this.#staging.create(path);
  }

  /** Makes the files between the last one and `index`, which have no bytes. */
  async #skipTo(index: number): Promise<void> {
    while (this.#index + 1 < index) {
      this.#index++;
      const file = this.#files[this.#index] as FileRecord;
      this.#open = await this.#staging.create(file.path);
      await this.#finish();
    }
  }

  async #finish(): Promise<void> {
    const file = this.#files[this.#index];
    if (!file || !this.#open) return;
    if (this.#open.size !== file.sizeBytes) failSize(file, String(this.#open.size));
    const staged = this.#open;
    const sha256 = await staged.finish();
    this.#open = undefined;
    if (sha256 === file.sha256) return;
    const message = `${file.path}: sha256: expected ${file.sha256}, got ${sha256}`;
    fail("DATA_LOSS", message, { path: file.path, expected: file.sha256, got: sha256 });
  }
}

function failSize({ path, sizeBytes }: FileRecord, got: string): never {
  const details = { path, expected: String(sizeBytes), got };
  return fail("DATA_LOSS", `${path}: expected ${sizeBytes} bytes, got ${got}`, details);
}

function sha256Of(value: unknown): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex");
}

function sorted(entries: [string, unknown][]): [string, unknown][] {
  return entries.sort(([a], [b]) => (a < b ? -1 : 1));
}

/** The version that a header describes. */
export function draftOf(header: UploadHeader): VersionDraft {
  const { requestId, etag: _, ...rest } = header;
  // Equal for equal files, in whatever order they were listed.
  const content = sorted(header.files.map(({ path, sha256 }) => [path, sha256]));
  const identity = { ...rest, metadata: sorted(Object.entries(rest.metadata)) };
  return {
    ...rest,
    digest: `sha256:${sha256Of(content)}`,
    request: requestId === "" ? null : { id: requestId, digest: sha256Of(identity) },
  };
}
