// How fast this machine multiplies, measured in a moment: what the time in a quote stands on. An estimate, no promise:
// other work on the machine, and whatever in a step is no matrix product, is not in it.
import { linearBackward, linearForward, normalFill, Tensor, type Weight } from "#native";
import type { TrainRecipe } from "#packages/data";
import type { LlamaConfig } from "#packages/hub";
import { denseWeight } from "./model-load.ts";
import { freeWeight, type QuantOptions, quantizeMatrix } from "./quantize-tensor.ts";

/** Larger matrices run at the same rate, and would make the measurement slow. */
const featuresMax = 2048;
const rowsMax = 512;
const repeats = 5;
const device = "cpu";

export interface Calibration {
  config: Pick<LlamaConfig, "hiddenSize" | "intermediateSize">;
  quant: QuantOptions | null;
  dtype: TrainRecipe["dtype"];
  /** Of a micro-batch. */
  rows: number;
}

function weightOf(out: number, inFeatures: number, quant: QuantOptions | null): Weight {
  const source = Tensor.empty("float32", [out, inFeatures], { device, kind: "workspace" });
  normalFill(source, { mean: 0, std: 0.02, seed: 1, stream: 0 });
  return quant ? quantizeMatrix(source, "calibration", quant, device) : denseWeight(source);
}

/** Floating-point operations a second of a linear layer of the model's shape, forward and back; the best of a few. */
export function measureRate({ config, quant, dtype, rows: wanted }: Calibration): number {
  const out = Math.min(config.intermediateSize, featuresMax);
  const inFeatures = Math.min(config.hiddenSize, featuresMax);
  const rows = Math.max(1, Math.min(wanted, rowsMax));
  const weight = weightOf(out, inFeatures, quant);
  const at = { device, kind: "workspace" } as const;
  const x = Tensor.empty(dtype, [rows, inFeatures], at).zero();
  const y = Tensor.empty(dtype, [rows, out], at);
  const dX = Tensor.empty(dtype, [rows, inFeatures], at);
  const none = { lora: null, h: null };
  const seconds = Array.from({ length: repeats }, () => {
    const started = performance.now();
    linearForward({ ...none, x, w: weight, bias: null, y });
    const gradients = { dX, accumulateDx: false, dA: null, dB: null, dW: null, dBias: null };
    linearBackward({ ...none, dY: y, x: null, w: weight, ...gradients });
    return (performance.now() - started) / 1000;
  });
  for (const t of [x, y, dX]) t.free();
  freeWeight(weight);
  return (4 * rows * out * inFeatures) / Math.min(...seconds);
}
