// The rows, in the order in which they run: what says most comes first, in case the time does not reach for all.
import type { MeasureRow } from "../row.ts";
import { measureContext } from "./context.ts";
import { measureAdapters, measureDecode, measureInference } from "./decode.ts";
import { measurePacked } from "./packed.ts";
import { measurePaged } from "./paged.ts";
import { measureProducts } from "./products.ts";
import { measureQuantize } from "./quantize.ts";
import { measure7b, measure13b, measure33b, measure65b } from "./steps.ts";

/** `seconds`: what a row may take of the budget of `secondsOfAll` seconds. */
export const rows: Record<string, { measure: MeasureRow; seconds: number }> = {
  "step-7b": { measure: measure7b, seconds: 20 },
  "quantize-7b": { measure: measureQuantize, seconds: 20 },
  "inference-7b": { measure: measureInference, seconds: 20 },
  "decode-7b": { measure: measureDecode, seconds: 40 },
  "products-7b": { measure: measureProducts, seconds: 15 },
  "packed-7b": { measure: measurePacked, seconds: 90 },
  "step-65b": { measure: measure65b, seconds: 80 },
  "adapters-16": { measure: measureAdapters, seconds: 30 },
  "paged-7b": { measure: measurePaged, seconds: 40 },
  "step-33b": { measure: measure33b, seconds: 45 },
  "step-13b": { measure: measure13b, seconds: 25 },
  "context-8b": { measure: measureContext, seconds: 90 },
};

export const secondsOfAll = Object.values(rows).reduce((sum, row) => sum + row.seconds, 0);
