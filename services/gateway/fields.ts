// Reads an object of a request field by field. What nobody asked for is refused, as OpenAI does: a misspelt parameter
// must not be taken for one that was heeded. null counts as left out.
import { isObject } from "#packages/http";
import { refusal } from "./errors.ts";

interface Limits {
  min?: number;
  max?: number;
}

export class Fields {
  readonly #from: Record<string, unknown>;
  readonly #path: string;
  readonly #seen = new Set<string>();

  /** @param path what messages put before a field's name: "messages[0]." */
  constructor(from: Record<string, unknown>, path = "") {
    this.#from = from;
    this.#path = path;
  }

  /** The whole value as an object. */
  static of(value: unknown, path: string): Fields {
    if (isObject(value)) return new Fields(value, `${path}.`);
    throw refuse(path, "an object", value);
  }

  /** The parameters after an address's question mark. */
  static ofQuery({ searchParams }: URL): Fields {
    return new Fields(Object.fromEntries(searchParams));
  }

  /** As it came. */
  get value(): Readonly<Record<string, unknown>> {
    return this.#from;
  }

  raw(name: string): unknown {
    this.#seen.add(name);
    return this.#from[name] ?? undefined;
  }

  #typed<T>(name: string, expected: string, is: (value: unknown) => value is T): T | undefined {
    const value = this.raw(name);
    if (value === undefined || is(value)) return value as T | undefined;
    throw refuse(this.#path + name, expected, value);
  }

  text(name: string): string | undefined {
    return this.#typed(name, "a text", (value) => typeof value === "string");
  }

  needText(name: string): string {
    return this.text(name) ?? this.missing(name);
  }

  boolean(name: string): boolean | undefined {
    return this.#typed(name, "true or false", (value) => typeof value === "boolean");
  }

  number(name: string, { min = -Infinity, max = Infinity }: Limits = {}): number | undefined {
    const is = (value: unknown): value is number => typeof value === "number" && value >= min && value <= max;
    return this.#typed(name, `a number${range(min, max)}`, is);
  }

  whole(name: string, { min = Number.MIN_SAFE_INTEGER, max = Number.MAX_SAFE_INTEGER }: Limits = {}) {
    const is = (value: unknown): value is number =>
      Number.isSafeInteger(value) && Number(value) >= min && Number(value) <= max;
    return this.#typed(name, `a whole number${range(min, max)}`, is);
  }

  choice<T extends string>(name: string, choices: readonly T[]): T | undefined {
    const is = (value: unknown): value is T => choices.some((one) => one === value);
    return this.#typed(name, `one of ${choices.join(", ")}`, is);
  }

  list(name: string, { min = 0, max = Infinity }: Limits = {}): unknown[] | undefined {
    const is = (value: unknown): value is unknown[] =>
      Array.isArray(value) && value.length >= min && value.length <= max;
    return this.#typed(name, `a list${range(min, max)}`, is);
  }

  object(name: string): Fields | undefined {
    const value = this.#typed(name, "an object", isObject);
    return value && new Fields(value, `${this.#path}${name}.`);
  }

  /** The field's name with all that is around it. */
  pathOf(name: string): string {
    return this.#path + name;
  }

  missing(name: string): never {
    throw refusal(`${this.#path}${name}: expected it, got none`, {
      param: this.#path + name,
      openaiCode: "missing_required_parameter",
    });
  }

  refuse(name: string, expected: string): never {
    throw refuse(this.#path + name, expected, this.#from[name]);
  }

  /** Fields that may come and change nothing. */
  ignore(...names: readonly string[]): void {
    for (const name of names) this.#seen.add(name);
  }

  /** Fields that would change the answer if they were heeded: only values that ask for nothing are let through. */
  unsupported(name: string, isHarmless: (value: unknown) => boolean = () => false): void {
    const value = this.raw(name);
    if (value === undefined || isHarmless(value)) return;
    const param = this.#path + name;
    throw refusal(`${param}: is not supported`, { param, openaiCode: "unsupported_parameter" });
  }

  /** @throws for a field that was not asked for. */
  end(): void {
    const other = Object.keys(this.#from).find((name) => !this.#seen.has(name));
    if (other === undefined) return;
    const param = this.#path + other.slice(0, 100);
    throw refusal(`${param}: is no parameter of this call`, { param, openaiCode: "unknown_parameter" });
  }
}

function refuse(param: string, expected: string, value: unknown) {
  const got = (JSON.stringify(value) ?? "nothing").slice(0, 100);
  return refusal(`${param}: expected ${expected}, got ${got}`, { param, openaiCode: "invalid_value" });
}

function range(min: number, max: number): string {
  const from = Number.isFinite(min) && min > Number.MIN_SAFE_INTEGER ? ` from ${min}` : "";
  const to = Number.isFinite(max) && max < Number.MAX_SAFE_INTEGER ? ` to ${max}` : "";
  return from + to;
}
