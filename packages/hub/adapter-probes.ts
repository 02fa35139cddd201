// Probes: short prompts with what the trained model said to them, in the metadata of an adapter's weights file, so that they
// travel with it. Whoever serves it asks the same and compares: a base, a quantization or a scaling that is not the
// trained one answers otherwise.
import { NibbleError } from "#packages/errors";

export const probesKey = "nibble.probes";

export interface AdapterProbe {
  /** The prompt. */
  ids: readonly number[];
  /** The likeliest tokens after it and the natural logarithms of their probabilities, likeliest first. */
  top: readonly (readonly [id: number, logprob: number])[];
}

const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const isPair = (value: unknown): boolean => Array.isArray(value) && value.length === 2 && value.every(isNumber);

function isProbe(value: unknown): value is AdapterProbe {
  const { ids, top } = (value ?? {}) as Partial<AdapterProbe>;
  const hasIds = Array.isArray(ids) && ids.length > 0 && ids.every((id) => Number.isInteger(id) && id >= 0);
  return hasIds && Array.isArray(top) && top.length > 0 && top.every(isPair);
}

/** @throws INVALID_ARGUMENT for text that no probes were printed to. */
export function parseProbes(text: string, path: string): AdapterProbe[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = null;
  }
  if (Array.isArray(value) && value.length <= 64 && value.every(isProbe)) return value;
  const message = `${path}: metadata ${probesKey}: expected probes, got ${text.slice(0, 80)}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "adapter_folder" });
}

export function printProbes(probes: readonly AdapterProbe[]): string {
  return JSON.stringify(probes);
}
