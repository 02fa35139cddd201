// What the registry remembers, and the few operations on it. Each operation is atomic. Etags are checked inside it,
// so that two writers cannot both pass. It knows no protobuf and no bytes of files.
import { NibbleError } from "#packages/errors";

export interface FileRecord {
  path: string;
  sizeBytes: number;
  /** 64 lower-case hex digits; also the blob's name. */
  sha256: string;
}

export interface QuantizationRecord {
  /** Number of the contract's QuantType. */
  type: number;
  blockSize: number;
  doubleQuant: boolean;
}

/** A version before it has a number. */
export interface VersionDraft {
  adapterId: string;
  baseDigest: string;
  baseModel: string;
  baseQuantization: QuantizationRecord | null;
  metadata: Record<string, string>;
  files: FileRecord[];
  /** Over the names and sha256 of the files. */
  digest: string;
  /** The idempotency key and a digest of what came with it; null without one. */
  request: { id: string; digest: string } | null;
}

export interface VersionRecord extends VersionDraft {
  number: number;
  createMs: number;
  /** Ids of the aliases that point at it, sorted. */
  aliases: string[];
  revision: number;
}

export interface AliasRecord {
  adapterId: string;
  id: string;
  version: number;
  /** Of the version. */
  baseDigest: string;
  updateMs: number;
  revision: number;
}

export interface AdapterRecord {
  id: string;
  createMs: number;
  updateMs: number;
  /** The highest number that was ever given; numbers are not used again. */
  latestVersion: number;
  /** Of the newest version that is there; "" without one. */
  newestBaseDigest: string;
  aliases: AliasRecord[];
  /**
   * Counts the adapter's changes. Versions and aliases carry the count of their own last change, so a record that is
   * removed and made again never has the revision of its predecessor.
   */
  revision: number;
}

/** A change to one record: which adapter, which etag was read ("" = whatever it is), and when it happens. */
export interface Change {
  adapterId: string;
  etag: string;
  nowMs: number;
}

export interface Store {
  /** One adapter, or a page of them by id. */
  adapters(query: { id: string } | { afterId: string; limit: number }): Promise<AdapterRecord[]>;
  /** One version, the version of a request, or a page of versions from the newest down. */
  versions(
    query:
      | { adapterId: string; number: number }
      | { requestId: string }
      | { adapterId: string; beforeNumber: number; limit: number },
  ): Promise<VersionRecord[]>;
  /** Adds the next version, or returns the one that the same request made before. `etag` is the adapter's. */
  addVersion(draft: VersionDraft, change: Change): Promise<VersionRecord>;
  /** Removes a version that no alias points at, and returns what it was. `etag` is the version's. */
  removeVersion(number: number, change: Change): Promise<VersionRecord>;
  /** Points an alias at a version that must exist. `etag` is the alias's. */
  putAlias(alias: { id: string; version: number }, change: Change): Promise<AliasRecord>;
  removeAlias(id: string, change: Change): Promise<void>;
  /** Blobs that versions or the hub use, by sha256, with their sizes: all, or those among the given ones. */
  blobsInUse(among?: readonly string[]): Promise<Map<string, number>>;
}

export function etagOf(record: { revision: number }): string {
  return String(record.revision);
}

/** ABORTED unless the record is as it was when the caller read its etag. */
export function checkEtag(op: string, what: string, etag: string, record: { revision: number } | undefined): void {
  const now = record ? etagOf(record) : "none";
  if (etag === "" || etag === now) return;
  const message = `${what}: expected etag ${etag.slice(0, 32)}, got ${now}: somebody changed it; read it again`;
  throw new NibbleError(message, { code: "ABORTED", op, details: { expected: etag, got: now } });
}

/** ALREADY_EXISTS unless the version was made by a request with this content. */
export function checkSameRequest(op: string, version: VersionRecord, request: { id: string; digest: string }): void {
  if (version.request?.digest === request.digest) return;
  const message = `request_id ${request.id}: expected a new one, it made version ${version.number} of ${version.adapterId} from another header`;
  throw new NibbleError(message, { code: "ALREADY_EXISTS", op, details: { request_id: request.id } });
}
