// Resource names of the registry.
import { NibbleError } from "#packages/errors";
import { parseName } from "#packages/rpc";

const adapterPattern = "adapters/{adapter}";
const versionPattern = "adapters/{adapter}/versions/{version}";
const aliasPattern = "adapters/{adapter}/aliases/{alias}";

export function adapterName(id: string): string {
  return `adapters/${id}`;
}

export function versionName({ adapterId, number }: { adapterId: string; number: number }): string {
  return `adapters/${adapterId}/versions/${number}`;
}

export function aliasName({ adapterId, id }: { adapterId: string; id: string }): string {
  return `adapters/${adapterId}/aliases/${id}`;
}

export function parseAdapterName(name: string, op: string): string {
  return parseName(adapterPattern, name, op).adapter;
}

export function parseVersionName(name: string, op: string): { adapterId: string; number: number } {
  const { adapter, version } = parseName(versionPattern, name, op);
  const number = Number(version);
  // One version has one name: no leading zeros, no exponents.
  if (Number.isSafeInteger(number) && number > 0 && String(number) === version) return { adapterId: adapter, number };
  const message = `name: expected ${versionPattern} with a version of 1, 2, 3, …, got ${JSON.stringify(version)}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { field: "name" } });
}

export function parseAliasName(name: string, op: string): { adapterId: string; id: string } {
  const { adapter, alias } = parseName(aliasPattern, name, op);
  return { adapterId: adapter, id: alias };
}

export function notFound(name: string, op: string): NibbleError {
  return new NibbleError(`${name}: not found`, { code: "NOT_FOUND", op, details: { name } });
}
