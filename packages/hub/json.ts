// JSON as Hugging Face's Python tools write it: numbers keep their spelling (1e-06 stays 1e-06, 6.0 stays
// 6.0, which a strict Python reader may insist on), keys are sorted, the indent is two spaces.
import { existsSync, readFileSync } from "node:fs";
import { NibbleError } from "#packages/errors";

export type JsonObject = Record<string, unknown>;

/** A number that is printed as `text`. V8 has had JSON.rawJSON since 2023; TypeScript does not declare it yet. */
const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON;

/** Parses an object; `what` names the file in the error. */
export function parseObject(text: string, op: string, what: string): JsonObject {
  return checkObject(parse(text, op, what), op, what);
}

/** The object in a file; null where there is no such file. */
export function readObjectFile(file: string, op: string): JsonObject | null {
  if (!existsSync(file)) return null;
  try {
    return parseObject(readFileSync(file, "utf8"), op, file);
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  }
}

/** As parseObject, but numbers stay as written when the object is printed again. */
export function parseForRewriting(text: string, op: string, what: string): JsonObject {
  const keep = (_key: string, value: unknown, context: { source?: string }) =>
    typeof value === "number" && context.source !== undefined ? rawJson(context.source) : value;
  return checkObject(parse(text, op, what, keep as Parameters<typeof JSON.parse>[1]), op, what);
}

function parse(text: string, op: string, what: string, reviver?: Parameters<typeof JSON.parse>[1]): unknown {
  try {
    return JSON.parse(text, reviver);
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    throw new NibbleError(`${what}: expected JSON: ${reason}`, { code: "INVALID_ARGUMENT", op, cause: thrown });
  }
}

function checkObject(value: unknown, op: string, what: string): JsonObject {
  if (isObject(value)) return value;
  throw new NibbleError(`${what}: expected a JSON object, got ${describe(value)}`, { code: "INVALID_ARGUMENT", op });
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value in an error message: short, and its kind is plain. */
export function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** Python's float: always with a point or an exponent, so that a reader gets a float and not an int. */
export function pythonFloat(value: number): unknown {
  return rawJson(pythonFloatText(value));
}

/** Python's repr of a finite float. JavaScript has the same shortest digits, but other limits for exponents. */
export function pythonFloatText(value: number): string {
  if (!Number.isFinite(value)) throw new RangeError(`[python_float] expected a finite number, got ${value}`);
  if (Object.is(value, -0)) return "-0.0";
  const exponent = value === 0 ? 0 : Number(value.toExponential().split("e")[1]);
  if (exponent >= -4 && exponent < 16) {
    const text = exponent < 0 ? value.toFixed(digitsAfterPoint(value)) : String(value);
    return text.includes(".") ? text : `${text}.0`;
  }
  const [digits, power] = value.toExponential().split("e") as [string, string];
  return `${digits}e${power[0]}${power.slice(1).padStart(2, "0")}`;
}

function digitsAfterPoint(value: number): number {
  const [digits, power] = value.toExponential().split("e") as [string, string];
  return Math.max(0, (digits.split(".")[1]?.length ?? 0) - Number(power));
}

/** json.dumps(value, indent=2, sort_keys=True) + "\n", the form of config.json. */
export function printSorted(value: JsonObject): string {
  return `${JSON.stringify(sorted(value), null, 2)}\n`;
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (!isObject(value) || isRaw(value)) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}

function isRaw(value: object): boolean {
  return (JSON as unknown as { isRawJSON(value: unknown): boolean }).isRawJSON(value);
}

/** Typed access to the keys of a parsed file; every error names file, key, what was expected and what came. */
export class Fields {
  readonly object: JsonObject;
  private readonly op: string;
  private readonly what: string;

  constructor(object: JsonObject, op: string, what: string) {
    this.object = object;
    this.op = op;
    this.what = what;
  }

  fail(key: string, expected: string): never {
    const message = `${this.what}: ${key}: expected ${expected}, got ${describe(this.object[key])}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: this.op, details: { file: this.what, key } });
  }

  private has(key: string): boolean {
    return this.object[key] !== undefined && this.object[key] !== null;
  }

  /** A whole number >= `min`. */
  integer(key: string, fallback?: number, min = 1): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.object[key];
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min) {
      return this.fail(key, `a whole number >= ${min}`);
    }
    return value;
  }

  /** A finite number that is above `above`. */
  number(key: string, fallback?: number, above = Number.NEGATIVE_INFINITY): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.object[key];
    if (typeof value !== "number" || !Number.isFinite(value) || value <= above) {
      return this.fail(key, above === Number.NEGATIVE_INFINITY ? "a finite number" : `a number > ${above}`);
    }
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    if (!this.has(key)) return fallback;
    const value = this.object[key];
    return typeof value === "boolean" ? value : this.fail(key, "true or false");
  }

  string(key: string, fallback?: string): string {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.object[key];
    return typeof value === "string" ? value : this.fail(key, "a string");
  }

  strings(key: string): string[] {
    const value = this.object[key];
    const ok = Array.isArray(value) && value.every((item) => typeof item === "string");
    return ok ? (value as string[]) : this.fail(key, "a list of strings");
  }

  /** A nested object, or undefined where the key is absent or null. */
  child(key: string): Fields | undefined {
    if (!this.has(key)) return undefined;
    const value = this.object[key];
    if (!isObject(value)) return this.fail(key, "an object");
    return new Fields(value, this.op, `${this.what}: ${key}`);
  }
}
