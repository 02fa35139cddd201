// Bodies of requests: JSON, forms, lines of JSON; each with a limit. It knows no sockets.
import { NibbleError } from "#packages/errors";
import type { Request } from "./types.ts";

export function badRequest(message: string, details: Record<string, string> = {}): NibbleError {
  return new NibbleError(message, { code: "INVALID_ARGUMENT", op: "http", details });
}

/** Of the body, as the client announces it; 0 where it does not. */
export function lengthOf({ headers }: Pick<Request, "headers">): number {
  return Number(headers["content-length"] ?? 0);
}

const bodyBytesMaxDefault = 16 << 20;
const lineBytesMax = 32 << 20;

/** By it an error's answer can say 413 instead of 400. */
const tooLarge = { reason: "too_large" };

async function textOf(body: AsyncIterable<Buffer>, bytesMax: number): Promise<string> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of body) {
    size += piece.length;
    if (size > bytesMax) throw badRequest(`the body: expected at most ${bytesMax} bytes, got more`, tooLarge);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

export interface ObjectOptions {
  /** Of the body. Default: 16 MiB. */
  bytesMax?: number;
  /** Read it as JSON whatever type it is said to have: curl says that all it sends is a form. Default: false. */
  isJson?: boolean;
}

/** A body of JSON, or of a form as Python's client sends some: each field a text or a list of texts. */
export async function objectOf(
  { body, headers }: Pick<Request, "body" | "headers">,
  { bytesMax = bodyBytesMaxDefault, isJson = false }: ObjectOptions = {},
): Promise<Record<string, unknown>> {
  const text = await textOf(body, bytesMax);
  if (!isJson && headers["content-type"]?.startsWith("application/x-www-form-urlencoded")) {
    const form = new URLSearchParams(text);
    return Object.fromEntries([...new Set(form.keys())].map((name) => [name, form.getAll(name)]));
  }
  return parseObject(text, "the body");
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function parseObject(text: string, what: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (thrown) {
    throw badRequest(`${what}: expected JSON: ${(thrown as Error).message}`);
  }
  if (isObject(value)) return value;
  throw badRequest(`${what}: expected a JSON object`);
}

/** A text field; the fallback where there is none. */
export function textField(from: Record<string, unknown>, name: string, fallback?: string): string {
  const value = from[name] ?? fallback;
  if (typeof value === "string") return value;
  throw badRequest(`${name}: expected a text, got ${JSON.stringify(value) ?? "nothing"}`);
}

/** The lines of a body as they come, without their ends; empty ones too. */
export async function* textLinesOf(body: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let pieces: Buffer[] = [];
  let size = 0;
  const line = () => {
    const text = Buffer.concat(pieces).toString("utf8");
    pieces = [];
    size = 0;
    return text;
  };
  for await (let piece of body) {
    for (let end = piece.indexOf(10); end >= 0; end = piece.indexOf(10)) {
      pieces.push(piece.subarray(0, end));
      piece = piece.subarray(end + 1);
      yield line();
    }
    pieces.push(piece);
    size += piece.length;
    if (size > lineBytesMax) throw badRequest(`a line of the body: expected at most ${lineBytesMax} bytes, got more`);
  }
  yield line();
}

/** The lines of a body of JSON objects, one at a time. */
export async function* linesOf(body: AsyncIterable<Buffer>): AsyncGenerator<Record<string, unknown>> {
  for await (const text of textLinesOf(body)) {
    if (text.trim() !== "") yield parseObject(text, "a line of the body");
  }
}
