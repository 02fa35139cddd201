// The rotary position settings of a config.json: theta and, where present, how positions beyond the
// trained length are scaled. Names and defaults are those of transformers' modeling_rope_utils.
import { NibbleError } from "#packages/errors";
import { Fields, type JsonObject } from "./json.ts";

const supportedRopeTypes = ["default", "linear", "dynamic", "llama3", "yarn"] as const;

export type RopeScaling =
  | { type: "default" }
  | { type: "linear"; factor: number }
  | { type: "dynamic"; factor: number; originalMaxPositionEmbeddings: number }
  | {
      type: "llama3";
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPositionEmbeddings: number;
    }
  | {
      type: "yarn";
      factor: number;
      /** Null: 0.1 ln(factor) + 1, or from mscale and mscaleAllDim where both are set. */
      attentionFactor: number | null;
      betaFast: number;
      betaSlow: number;
      mscale: number | null;
      mscaleAllDim: number | null;
      truncate: boolean;
      originalMaxPositionEmbeddings: number;
    };

export interface Rope {
  theta: number;
  scaling: RopeScaling;
}

const op = "model_config";

export function parseRope(config: JsonObject, maxPositionEmbeddings: number, file: string): Rope {
  const top = new Fields(config, op, file);
  const v5 = top.child("rope_parameters");
  const f = v5 ?? top.child("rope_scaling") ?? new Fields({}, op, `${file}: rope_scaling`);
  const theta = v5
    ? v5.number("rope_theta", top.number("rope_theta", 10000, 0), 0)
    : top.number("rope_theta", 10000, 0);
  const partial = f.number("partial_rotary_factor", top.number("partial_rotary_factor", 1));
  if (partial !== 1) {
    const message = `${file}: partial_rotary_factor: expected 1, got ${partial}`;
    throw new NibbleError(message, { code: "FAILED_PRECONDITION", op, details: { file } });
  }
  const original = f.integer(
    "original_max_position_embeddings",
    top.integer("original_max_position_embeddings", maxPositionEmbeddings),
  );
  return { theta, scaling: parseScaling(f, original, maxPositionEmbeddings, file) };
}

function parseScaling(f: Fields, original: number, maxPositionEmbeddings: number, file: string): RopeScaling {
  const type = f.string("rope_type", f.string("type", "default"));
  switch (type) {
    case "default":
      return { type };
    case "linear":
      return { type, factor: f.number("factor", undefined, 0) };
    case "dynamic":
      return { type, factor: f.number("factor", undefined, 0), originalMaxPositionEmbeddings: original };
    case "llama3":
      return {
        type,
        factor: f.number("factor", undefined, 0),
        lowFreqFactor: f.number("low_freq_factor", undefined, 0),
        highFreqFactor: f.number("high_freq_factor", undefined, 0),
        originalMaxPositionEmbeddings: original,
      };
    case "yarn":
      return {
        type,
        factor: f.number("factor", maxPositionEmbeddings / original, 0),
        attentionFactor: optional(f, "attention_factor"),
        betaFast: f.number("beta_fast", 32, 0),
        betaSlow: f.number("beta_slow", 1, 0),
        mscale: optional(f, "mscale"),
        mscaleAllDim: optional(f, "mscale_all_dim"),
        truncate: f.boolean("truncate", true),
        originalMaxPositionEmbeddings: original,
      };
    default: {
      const message = `${file}: rope type ${type} is not supported; supported: ${supportedRopeTypes.join(", ")}`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op, details: { file } });
    }
  }
}

function optional(f: Fields, key: string): number | null {
  return f.object[key] === undefined || f.object[key] === null ? null : f.number(key, undefined, 0);
}
