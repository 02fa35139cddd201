// The header of a safetensors file: parsing with every check that the format allows, and printing.
// A file that passes has no byte that two tensors share, that no tensor owns, or that lies outside it.
import { NibbleError } from "#packages/errors";
import { byteLengthOf, dtypeOfFileName, fileNameOfDtype, rankOfDtype, type StoredDType } from "./dtypes.ts";
import { describe, isObject, type JsonObject, parseObject } from "./json.ts";

/** safetensors' own limit on the header. */
export const headerBytesMax = 100_000_000;

export interface TensorSpec {
  name: string;
  dtype: StoredDType;
  shape: readonly number[];
}

export interface TensorInfo {
  dtype: StoredDType;
  shape: readonly number[];
  /** From the start of the file. */
  byteOffset: number;
  byteLength: number;
}

export interface SafetensorsHeader {
  tensors: Map<string, TensorInfo>;
  metadata: Record<string, string>;
  /** Of the whole file. */
  fileBytes: number;
}

const op = "safetensors";

function fail(message: string, file: string): never {
  throw new NibbleError(`${file}: ${message}`, { code: "DATA_LOSS", op, details: { file } });
}

/** `bytes` are the header's, without the eight of its length; `fileBytes` is the size of the whole file. */
export function parseHeader(bytes: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return fail("header: expected UTF-8 text", file);
  }
  if (!text.startsWith("{")) fail(`header: expected a JSON object, got ${describe(text.slice(0, 8))}`, file);
  const object = parseHeaderObject(text, file);
  const duplicate = duplicateKey(text);
  if (duplicate !== undefined) fail(`header: tensor ${duplicate} is listed twice`, file);
  const dataStart = 8 + bytes.length;
  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of Object.entries(object)) {
    if (name !== "__metadata__") tensors.set(name, parseEntry(name, entry, dataStart, file));
  }
  checkContiguous(tensors, dataStart, fileBytes, file);
  return { tensors, metadata: parseMetadata(object["__metadata__"], file), fileBytes };
}

function parseHeaderObject(text: string, file: string): JsonObject {
  try {
    return parseObject(text, op, `${file}: header`);
  } catch (thrown) {
    const { message, cause } = NibbleError.from(thrown, op);
    throw new NibbleError(message, { code: "DATA_LOSS", op, details: { file }, cause });
  }
}

function parseMetadata(value: unknown, file: string): Record<string, string> {
  if (value === undefined) return {};
  if (!isObject(value) || Object.values(value).some((v) => typeof v !== "string")) {
    return fail(`header: __metadata__: expected an object of strings, got ${describe(value)}`, file);
  }
  return value as Record<string, string>;
}

function parseEntry(name: string, entry: unknown, dataStart: number, file: string): TensorInfo {
  if (!isObject(entry)) return fail(`tensor ${name}: expected an object, got ${describe(entry)}`, file);
  const { dtype: dtypeName, shape, data_offsets: offsets, ...rest } = entry;
  const unknown = Object.keys(rest)[0];
  if (unknown !== undefined) fail(`tensor ${name}: unknown key ${unknown}`, file);
  const dtype = typeof dtypeName === "string" ? dtypeOfFileName(dtypeName) : undefined;
  if (dtype === undefined) {
    throw new NibbleError(`${file}: tensor ${name}: unknown dtype ${describe(dtypeName)}`, {
      code: "FAILED_PRECONDITION",
      op,
      details: { file, tensor: name },
    });
  }
  if (!isWholeNumbers(shape))
    return fail(`tensor ${name}: shape: expected whole numbers, got ${describe(shape)}`, file);
  if (!isWholeNumbers(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    return fail(`tensor ${name}: data_offsets: expected [begin, end], got ${describe(offsets)}`, file);
  }
  const byteLength = byteLengthOf(dtype, shape);
  const stored = offsets[1]! - offsets[0]!;
  if (stored !== byteLength) {
    const expected = `${byteLength} bytes for ${dtypeName} [${shape.join(",")}]`;
    return fail(`tensor ${name}: expected ${expected}, got data_offsets of ${stored} bytes`, file);
  }
  return { dtype, shape, byteOffset: dataStart + offsets[0]!, byteLength };
}

function isWholeNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function checkContiguous(tensors: Map<string, TensorInfo>, dataStart: number, fileBytes: number, file: string): void {
  const byPlace = [...tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  let end = dataStart;
  for (const [name, info] of byPlace) {
    if (info.byteOffset !== end) {
      const what = info.byteOffset < end ? "overlaps the tensor before it" : "leaves a gap before it";
      fail(`tensor ${name}: ${what}: expected offset ${end - dataStart}, got ${info.byteOffset - dataStart}`, file);
    }
    end += info.byteLength;
  }
  if (end === fileBytes) return;
  const what = end > fileBytes ? "the file is truncated" : "bytes follow the last tensor";
  fail(`${what}: expected ${end} bytes, got ${fileBytes}`, file);
}

/**
 * The first key that occurs twice in the outermost object of valid JSON. JSON.parse keeps the last one
 * silently, and two readers that keep different ones would see different weights in one file.
 */
export function duplicateKey(json: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  for (const [token, quoted] of json.matchAll(/"([^"\\]*(?:\\.[^"\\]*)*)"|[{}[\]]/gs)) {
    if (token === "{" || token === "[") depth++;
    else if (token === "}" || token === "]") depth--;
    else if (depth === 1) {
      // At depth 1 the only strings of a header are keys: its values are objects.
      const key = JSON.parse(`"${quoted}"`) as string;
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return undefined;
}

/** The order of safetensors' own writer: wide dtypes first, then names by their UTF-8 bytes. */
function sortForFile<T extends TensorSpec>(specs: readonly T[]): T[] {
  return [...specs].sort(
    (a, b) => rankOfDtype(b.dtype) - rankOfDtype(a.dtype) || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)),
  );
}

/** The first bytes of a file of `specs` (length and header) and where each tensor goes. */
export function layOut(
  specs: readonly TensorSpec[],
  metadata: Record<string, string>,
): { head: Uint8Array; tensors: Map<string, TensorInfo>; fileBytes: number } {
  const object: JsonObject = Object.create(null);
  if (Object.keys(metadata).length > 0) object["__metadata__"] = metadata;
  let end = 0;
  const placed = sortForFile(specs).map(({ name, dtype, shape }) => {
    const begin = end;
    end += byteLengthOf(dtype, shape);
    if (Object.hasOwn(object, name))
      throw new NibbleError(`tensor ${name} is listed twice`, { code: "INVALID_ARGUMENT", op });
    object[name] = { dtype: fileNameOfDtype(dtype), shape, data_offsets: [begin, end] };
    return { name, dtype, shape, begin, byteLength: end - begin };
  });
  const text = Buffer.from(JSON.stringify(object));
  const padded = Math.ceil(text.length / 8) * 8;
  const head = Buffer.alloc(8 + padded, " ");
  head.writeBigUInt64LE(BigInt(padded), 0);
  text.copy(head, 8);
  const tensors = new Map<string, TensorInfo>();
  for (const { name, dtype, shape, begin, byteLength } of placed) {
    tensors.set(name, { dtype, shape, byteOffset: head.length + begin, byteLength });
  }
  return { head, tensors, fileBytes: head.length + end };
}
