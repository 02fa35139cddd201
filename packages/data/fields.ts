// The fields of a record, checked one by one; every error names the place.
import { type Place, rowError, short } from "./place.ts";

export type Fields = Readonly<Record<string, unknown>>;

export function stringOf(fields: Fields, key: string, place: Place): string {
  const value = fields[key];
  if (typeof value === "string") return value;
  throw rowError(place, `${key}: expected a string, got ${short(value)}`);
}

/** "" where the field is missing or null. */
export function optionalString(fields: Fields, key: string, place: Place): string {
  return fields[key] === undefined || fields[key] === null ? "" : stringOf(fields, key, place);
}

export function listOf(fields: Fields, key: string, place: Place): unknown[] {
  const value = fields[key];
  if (Array.isArray(value) && value.length > 0) return value;
  throw rowError(place, `${key}: expected a list with at least one entry, got ${short(value)}`);
}

export function integersOf(
  fields: Fields,
  key: string,
  place: Place,
  expected: { least: number; what: string },
): number[] {
  const { least, what } = expected;
  const value = fields[key];
  if (!Array.isArray(value)) throw rowError(place, `${key}: expected a list of ${what}, got ${short(value)}`);
  const wrong = value.find((n) => !Number.isInteger(n) || n > 0x7fffffff || (n < 0 && n !== least));
  if (wrong !== undefined) throw rowError(place, `${key}: expected ${what}, got ${short(wrong)}`);
  return value as number[];
}

/** How much a row's loss counts, beside rows of weight 1; CSV files have it as text. */
export function weightOf(fields: Fields, place: Place): number {
  const value = fields["weight"];
  if (value === undefined || value === null || value === "") return 1;
  const weight = typeof value === "string" ? Number(value) : value;
  if (typeof weight === "number" && Number.isFinite(weight) && weight >= 0) return weight;
  throw rowError(place, `weight: expected a number >= 0, got ${short(value)}`);
}

export function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
