// A block's 4-bit layers of 7B over many rows, by our own tiles and by cuBLASLt in the same call: which of them
// NIBBLE_CUDA_GEMM should name. No goal is set for it.
import { type CudaProducts, convert, cuda, linearForward, normalFill, Tensor } from "#native";
import type { LinearLayer } from "../../../packages/engine/layers.ts";
import { freeModel } from "../../../packages/engine/model-load.ts";
import { linearsOf } from "../../../packages/engine/models/llama.ts";
import { finish, randomModel } from "../random-model.ts";
import { measureRates } from "../rates.ts";
import type { Figure, MeasureRow, Setting } from "../row.ts";
import { configOf } from "../shapes.ts";

/** Operations a second over all layers; the best of several. */
function rateOf(layers: readonly LinearLayer[], rows: number, { device }: Setting): number {
  const at = { device, kind: "workspace" } as const;
  let [operations, seconds] = [0, 0];
  for (const { weight: w } of layers) {
    const drawn = Tensor.empty("float32", [rows, w.in], at);
    normalFill(drawn, { mean: 0, std: 1, seed: 2, stream: 0 });
    const [x, y] = [Tensor.empty("bfloat16", [rows, w.in], at), Tensor.empty("bfloat16", [rows, w.out], at)];
    convert(drawn, x);
    const times = Array.from({ length: 5 }, () => {
      finish(device);
      const started = performance.now();
      linearForward({ x, w, bias: null, lora: null, h: null, y });
      finish(device);
      return (performance.now() - started) / 1000;
    });
    operations += 2 * rows * w.in * w.out;
    seconds += Math.min(...times);
    for (const t of [drawn, x, y]) t.free();
  }
  return operations / seconds;
}

/** The reason where the library is not there. */
function choose(products: CudaProducts): string | null {
  try {
    cuda.chooseProducts(products);
    return null;
  } catch (thrown) {
    return String((thrown as Error).message);
  }
}

export const measureProducts: MeasureRow = async (setting) => {
  const { device, shape } = setting;
  const model = randomModel({ ...configOf("7b", shape), layerCount: 1 }, { device, positions: 16 });
  const layers = model.blocks.flatMap(linearsOf);
  const rates = measureRates(setting);
  const figures: Record<string, Figure> = {};
  const notes = [...rates.notes];
  for (const products of device === "cuda" ? (["own", "cublaslt"] as const) : (["own"] as const)) {
    const why = device === "cuda" ? choose(products) : null;
    if (why !== null) notes.push(`${products}: ${why}`);
    for (const rows of why === null ? [512, 2048, 8192] : []) {
      const count = shape === "full" ? rows : rows / 64;
      const rate = rateOf(layers, count, setting);
      figures[`${products}, ${count} rows`] = { value: rate / 1e12, unit: "TFLOP/s" };
      if (rates.product !== null) {
        figures[`${products}, ${count} rows, of PyTorch's product`] = { value: rate / rates.product, unit: "" };
      }
    }
  }
  if (device === "cuda") cuda.chooseProducts("own");
  freeModel(model);
  return { what: "7b: a block's 4-bit layers over many rows", figures, goals: [], notes };
};
