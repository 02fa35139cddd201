// What the Hub's HTTP API adds to the kit's: sizes, ranges, pages. It knows no repositories.
import { NibbleError } from "#packages/errors";
import type { Request } from "#packages/http";

export {
  type Answer,
  lengthOf,
  linesOf,
  objectOf,
  parseObject,
  type Request,
  type Route,
  route,
  textField,
} from "#packages/http";

export function badRequest(message: string): NibbleError {
  return new NibbleError(message, { code: "INVALID_ARGUMENT", op: "hub" });
}

export function sizeField(from: Record<string, unknown>, name: string): number {
  const value = from[name];
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw badRequest(`${name}: expected a size in bytes, got ${JSON.stringify(value) ?? "nothing"}`);
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
