// Resource names and page tokens. Names are checked by a linear scan, never by a regular expression on user input.
import { NibbleError } from "#packages/errors";

const idLengthMax = 63;

function isIdCharacter(code: number): boolean {
  return (code >= 97 && code <= 122) || (code >= 48 && code <= 57);
}

/** 1 to 63 lower-case letters, digits and hyphens, beginning with a letter or digit. */
export function isId(text: string): boolean {
  if (text.length < 1 || text.length > idLengthMax || text[0] === "-") return false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (!isIdCharacter(code) && code !== 45) return false;
  }
  return true;
}

/** INVALID_ARGUMENT unless the text is an id. `field` is the field it came in. */
export function checkId(text: string, field: string, op: string): string {
  if (isId(text)) return text;
  const expected = `1 to ${idLengthMax} lower-case letters, digits and hyphens, beginning with a letter or digit`;
  throw new NibbleError(`${field}: expected ${expected}, got ${JSON.stringify(text.slice(0, 80))}`, {
    code: "INVALID_ARGUMENT",
    op,
    details: { field },
  });
}

type Variables<P extends string> = P extends `${infer A}/${infer B}`
  ? Variables<A> | Variables<B>
  : P extends `{${infer V}}`
    ? V
    : never;

/**
 * The variables of a name: parseName("adapters/{adapter}/versions/{version}", "adapters/a/versions/3", "get") is
 * { adapter: "a", version: "3" }. INVALID_ARGUMENT for a name of another form.
 */
export function parseName<P extends string>(pattern: P, name: string, op: string): Record<Variables<P>, string> {
  const expected = pattern.split("/");
  const parts = name.split("/", expected.length + 1);
  const variables: Record<string, string> = {};
  const fits =
    parts.length === expected.length &&
    expected.every((part, i) => {
      const value = parts[i] ?? "";
      if (!part.startsWith("{")) return value === part;
      variables[part.slice(1, -1)] = value;
      return isId(value);
    });
  if (fits) return variables as Record<Variables<P>, string>;
  throw new NibbleError(`name: expected ${pattern}, got ${JSON.stringify(name.slice(0, 200))}`, {
    code: "INVALID_ARGUMENT",
    op,
    details: { field: "name", expected: pattern },
  });
}

/** The opposite of parseName. */
export function formatName<P extends string>(pattern: P, variables: Record<Variables<P>, string | number | bigint>) {
  const values = variables as Record<string, string | number | bigint>;
  return pattern
    .split("/")
    .map((part) => (part.startsWith("{") ? String(values[part.slice(1, -1)]) : part))
    .join("/");
}

const pageSizeDefault = 50;
const pageSizeMax = 1000;

/** The page size to use for what was asked (AIP-158: 0 is the default, too large is cut). */
export function pageSizeOf(asked: number): number {
  return asked === 0 ? pageSizeDefault : Math.min(asked, pageSizeMax);
}

/**
 * A page token: where the next page begins, and what the listing was, so that a token of another listing is refused.
 * Opaque to clients, but neither secret nor signed.
 */
export function encodePageToken(listing: string, position: string): string {
  return Buffer.from(JSON.stringify([listing, position])).toString("base64url");
}

/** The position in a token; undefined for an empty one, INVALID_ARGUMENT for a token of another listing. */
export function decodePageToken(listing: string, token: string, op: string): string | undefined {
  if (token === "") return undefined;
  try {
    const [of, position] = JSON.parse(Buffer.from(token, "base64url").toString("utf8")) as [unknown, unknown];
    if (of === listing && typeof position === "string") return position;
  } catch {
    // Not a token at all: the same answer.
  }
  const message = "page_token: expected one from the same listing, got another";
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { field: "page_token" } });
}
