// A shard as clients upload it: of which chunks of which xorbs each file is made, and the file's sha256 (Xet protocol
// specification, "MDB shard file format"). The list of xorbs that follows serves deduplication and is not read.
import { badRequest } from "../http.ts";

export interface Term {
  /** Hash of the xorb, as addresses spell it. */
  xorb: string;
  /** Length of these chunks when decoded. */
  sizeBytes: number;
  /** Chunks, the end exclusive. */
  start: number;
  end: number;
}

export interface ShardFile {
  sha256: string;
  sizeBytes: number;
  terms: Term[];
}

export const shardBytesMax = 64 << 20;
const tag = Buffer.from("HFRepoMetaData\0UigEj{\x81W\x83\xa5\xbd\xd9\\\xcd\xd1J\xa9", "latin1");
const version = 2n;
const headerBytes = 48;
const entryBytes = 48;
const flags = { verification: 0x80000000, metadata: 0x40000000 };
const bookend = "f".repeat(64);

/** A hash as addresses spell it: each 8 bytes as one little-endian number. */
function hashAt(bytes: Buffer, at: number): string {
  const words = [0, 8, 16, 24].map((offset) => bytes.readBigUInt64LE(at + offset));
  return words.map((word) => word.toString(16).padStart(16, "0")).join("");
}

/** @throws INVALID_ARGUMENT for bytes that are no shard, or that hold a file without its sha256. */
export function parseShard(bytes: Buffer): ShardFile[] {
  try {
    return filesOf(bytes);
  } catch (thrown) {
    if (thrown instanceof RangeError) throw badRequest(`a shard: it is cut: ${thrown.message}`);
    throw thrown;
  }
}

function filesOf(bytes: Buffer): ShardFile[] {
  if (!bytes.subarray(0, tag.length).equals(tag) || bytes.readBigUInt64LE(tag.length) !== version) {
    throw badRequest(`a shard: expected one of version ${version}`);
  }
  const files: ShardFile[] = [];
  for (let at = headerBytes; hashAt(bytes, at) !== bookend; ) {
    const fileFlags = bytes.readUInt32LE(at + 32);
    const count = bytes.readUInt32LE(at + 36);
    at += entryBytes;
    // Before the list is made: a wrong count must not ask for gigabytes.
    if (at + count * entryBytes > bytes.length) throw new RangeError(`${count} terms`);
    const terms = Array.from({ length: count }, (_, index) => termAt(bytes, at + index * entryBytes));
    at += count * entryBytes * ((fileFlags & flags.verification) !== 0 ? 2 : 1);
    if ((fileFlags & flags.metadata) === 0) throw badRequest("a shard: expected the sha256 of each file, got none");
    files.push({ sha256: hashAt(bytes, at), terms, sizeBytes: terms.reduce((sum, term) => sum + term.sizeBytes, 0) });
    at += entryBytes;
  }
  return files;
}

function termAt(bytes: Buffer, at: number): Term {
  const [sizeBytes, start, end] = [36, 40, 44].map((offset) => bytes.readUInt32LE(at + offset)) as [
    number,
    number,
    number,
  ];
  return { xorb: hashAt(bytes, at), sizeBytes, start, end };
}
