// Requests and answers of the hub's HTTP API, and a table of routes. It knows no repositories.
import type { IncomingMessage } from "node:http";
import type { Readable } from "node:stream";
import { NibbleError } from "#packages/errors";

export interface Request {
  method: string;
  url: URL;
  /** Parts of the path by the names of the route, decoded. */
  params: Record<string, string>;
  headers: IncomingMessage["headers"];
  /** To be read once; what is not read is dropped. */
  body: AsyncIterable<Buffer>;
  /** "http://host:port" as the client calls this server. */
  origin: string;
}

export interface Answer {
  /** Default: 200. */
  status?: number;
  headers?: Record<string, string>;
  json?: unknown;
  /** Its length is among the headers. */
  stream?: () => Readable;
}

export type Handler = (request: Request) => Promise<Answer>;

export interface Route {
  method: string;
  pattern: RegExp;
  handler: Handler;
}

/** ":name" stands for one part of a path, "*name" at the end for any number of them. */
export function route(methods: string, path: string, handler: Handler): Route[] {
  const source = path
    .replaceAll(".", "\\.")
    .replaceAll(/:(\w+)/g, "(?<$1>[^/]+?)")
    .replace(/\/\*(\w+)$/, "(?:/(?<$1>.*))?");
  const pattern = new RegExp(`^${source}$`);
  return methods.split(" ").map((method) => ({ method, pattern, handler }));
}

/** The route of a request; undefined where there is none. */
export function findRoute(routes: readonly Route[], method: string, path: string) {
  for (const one of routes) {
    const match = one.method === method ? one.pattern.exec(path) : null;
    if (!match) continue;
    const params = Object.entries(match.groups ?? {}).map(([name, text = ""]) => [name, decoded(text)]);
    return { handler: one.handler, params: Object.fromEntries(params) as Record<string, string> };
  }
  return undefined;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw badRequest(`the path: expected percent-encoded UTF-8, got ${JSON.stringify(text.slice(0, 80))}`);
  }
}

export function badRequest(message: string): NibbleError {
  return new NibbleError(message, { code: "INVALID_ARGUMENT", op: "hub" });
}

/** Of the body, as the client announces it; 0 where it does not. */
export function lengthOf({ headers }: Request): number {
  return Number(headers["content-length"] ?? 0);
}

const bodyBytesMax = 16 << 20;

async function textOf(body: AsyncIterable<Buffer>): Promise<string> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of body) {
    size += piece.length;
    if (size > bodyBytesMax) throw badRequest(`the body: expected at most ${bodyBytesMax} bytes, got more`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

/** A body of JSON, or of a form as Python's client sends some: each field a text or a list of texts. */
export async function objectOf({ body, headers }: Request): Promise<Record<string, unknown>> {
  const text = await textOf(body);
  if (headers["content-type"]?.startsWith("application/x-www-form-urlencoded")) {
    const form = new URLSearchParams(text);
    return Object.fromEntries([...new Set(form.keys())].map((name) => [name, form.getAll(name)]));
  }
  return parseObject(text, "the body");
}

export function parseObject(text: string, what: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (thrown) {
    throw badRequest(`${what}: expected JSON: ${(thrown as Error).message}`);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw badRequest(`${what}: expected a JSON object`);
}

/** A text field; the fallback where there is none. */
export function textField(from: Record<string, unknown>, name: string, fallback?: string): string {
  const value = from[name] ?? fallback;
  if (typeof value === "string") return value;
  throw badRequest(`${name}: expected a text, got ${JSON.stringify(value) ?? "nothing"}`);
}

export function sizeField(from: Record<string, unknown>, name: string): number {
  const value = from[name];
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw badRequest(`${name}: expected a size in bytes, got ${JSON.stringify(value) ?? "nothing"}`);
}

const lineBytesMax = 32 << 20;

/** The lines of a body of JSON objects, one at a time. */
export async function* linesOf(body: AsyncIterable<Buffer>): AsyncGenerator<Record<string, unknown>> {
  let pieces: Buffer[] = [];
  let size = 0;
  const line = () => {
    const text = Buffer.concat(pieces).toString("utf8").trim();
    pieces = [];
    size = 0;
    return text;
  };
  for await (let piece of body) {
    for (let end = piece.indexOf(10); end >= 0; end = piece.indexOf(10)) {
      pieces.push(piece.subarray(0, end));
      piece = piece.subarray(end + 1);
      const text = line();
      if (text !== "") yield parseObject(text, "a line of the body");
    }
    pieces.push(piece);
    size += piece.length;
    if (size > lineBytesMax) throw badRequest(`a line of the body: expected at most ${lineBytesMax} bytes, got more`);
  }
  const text = line();
  if (text !== "") yield parseObject(text, "a line of the body");
}

export interface Range {
  start: number;
  /** Exclusive. */
  end: number;
}

/** The range that is asked for; undefined: all of it. Several ranges are answered as all of it, as RFC 9110 allows. */
export function rangeOf(header: string | undefined, size: number): Range | undefined {
  const [, first = "", last = ""] = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? "") ?? [];
  if (first === "" && last === "") return undefined;
  const start = first === "" ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === "" || last === "" ? size : Math.min(size, Number(last) + 1);
  if (start < end) return { start, end };
  const message = `range: expected one within ${size} bytes, got ${header}`;
  throw new NibbleError(message, { code: "OUT_OF_RANGE", op: "hub", details: { size: String(size) } });
}

/** The place after which a page begins, and how long it may be. */
export function pageOf({ searchParams }: URL, defaultLimit: number): { after: string; limit: number } {
  const limit = Number(searchParams.get("limit") ?? defaultLimit);
  if (!Number.isSafeInteger(limit) || limit < 1)
    throw badRequest(`limit: expected a whole number from 1, got ${limit}`);
  const cursor = searchParams.get("cursor") ?? "";
  return { after: Buffer.from(cursor, "base64url").toString("utf8"), limit: Math.min(limit, 1000) };
}

/** The header that leads to the next page, as both clients follow it. */
export function nextLink({ origin, url }: Request, after: string): Record<string, string> {
  const next = new URL(`${origin}${url.pathname}${url.search}`);
  next.searchParams.set("cursor", Buffer.from(after).toString("base64url"));
  return { Link: `<${next}>; rel="next"` };
}
