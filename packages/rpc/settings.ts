// Settings of a service from its environment: typed, with a default, checked once at the start. It reads no
// environment by itself; a service's config.ts hands it in.
import { NibbleError } from "#packages/errors";

export type Environment = Readonly<Record<string, string | undefined>>;

function refuse(name: string, expected: string, got: string): never {
  const message = `${name}: expected ${expected}, got ${JSON.stringify(got)}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "config", details: { name } });
}

/** The text of a variable; the fallback when it is unset or empty. */
export function textSetting(env: Environment, name: string, fallback: string): string {
  return env[name] || fallback;
}

export function wholeSetting(
  env: Environment,
  name: string,
  fallback: number,
  { min = 0, max = Number.MAX_SAFE_INTEGER }: { min?: number; max?: number } = {},
): number {
  const text = env[name];
  if (text === undefined || text === "") return fallback;
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
  return refuse(name, `a whole number from ${min} to ${max}`, text);
}

export function choiceSetting<T extends string>(env: Environment, name: string, choices: readonly T[], fallback: T): T {
  const text = env[name];
  if (text === undefined || text === "") return fallback;
  return choices.find((one) => one === text) ?? refuse(name, `one of ${choices.join(", ")}`, text);
}
